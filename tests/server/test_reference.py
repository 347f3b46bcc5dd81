"""References on a running ComfyUI: pictures change, branches do not, mistakes are told."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import data

from tools.client import ExecutionError, PromptError

SIZE = 128
PLUS = "nano_ip_adapter_plus.safetensors"
BASE = "nano_ip_adapter.safetensors"
VISION = "nano_clip_vision.safetensors"


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


@pytest.fixture(scope="module", autouse=True)
def photographs(server):
    pictures = {"reference_face": data.astronaut(), "reference_cup": data.coffee()}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(server.input_dir / f"{name}.png")


def sampled(model: str) -> dict:
    """Nodes that sample with the model of node `model` and save the pictures."""
    return {
        f"{model}_sampler": node(
            "KSampler", model=[model, 0], positive=["yes", 0], negative=["no", 0],
            latent_image=["latent", 0], seed=5, steps=3, cfg=4.0, sampler_name="euler",
            scheduler="normal", denoise=1.0,
        ),
        f"{model}_pixels": node("VAEDecode", samples=[f"{model}_sampler", 0], vae=["base", 2]),
        f"{model}_saved": node(
            "SaveImage", images=[f"{model}_pixels", 0], filename_prefix=f"reference/{model}"
        ),
    }  # fmt: skip


def graph(adapter: str = PLUS, vision: str = VISION, frames: int = 1) -> dict:
    return {
        "base": node("CheckpointLoaderSimple", ckpt_name="nano_sdxl.safetensors"),
        "yes": node("CLIPTextEncode", clip=["base", 1], text="a portrait"),
        "no": node("CLIPTextEncode", clip=["base", 1], text="blurry"),
        "latent": node("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=frames),
        "vision": node("CLIPVisionLoader", clip_name=vision),
        "adapter": node("TroupeLoadIPAdapter", ipadapter_name=adapter),
        "face": node("LoadImage", image="reference_face.png"),
        "cup": node("LoadImage", image="reference_cup.png"),
        "who": node("TroupeCharacter", image=["face", 0], weight=1.0),
        "place": node("TroupeBackground", image=["cup", 0], weight=1.0, mode="inspire"),
    }


def applied(model: str, reference: str, **inputs) -> dict:
    return node(
        "TroupeApplyReference", model=[model, 0], reference=[reference, 0],
        ipadapter=["adapter", 0], clip_vision=["vision", 0], **inputs,
    )  # fmt: skip


def pictures(server, outputs: dict, model: str) -> np.ndarray:
    images = outputs[f"{model}_saved"]["images"]
    return np.stack(
        [np.asarray(Image.open(io.BytesIO(server.client.view(**image)))) for image in images]
    )


@pytest.fixture(scope="module")
def plain(server):
    """What nano paints when nobody in the graph has a reference."""
    prompt = {k: v for k, v in graph().items() if k in ("base", "yes", "no", "latent")}
    return pictures(server, server.client.run(prompt | sampled("base")), "base")


def test_branches_of_one_graph_do_not_touch_each_other(server, plain):
    prompt = graph() | {
        "one": applied("base", "who"),
        "two": applied("one", "place"),
        "other": applied("base", "place"),
        "none": node("TroupeCharacter", image=["face", 0], weight=0.0),
        "zero": applied("base", "none"),
    }
    names = ("two", "one", "other", "zero", "base")
    for name in names:
        prompt |= sampled(name)
    outputs = server.client.run(prompt)
    seen = {name: pictures(server, outputs, name) for name in names}
    assert np.array_equal(seen["base"], plain)
    assert np.array_equal(seen["zero"], plain)
    for a, b in (("one", "base"), ("two", "one"), ("other", "base"), ("two", "other")):
        assert not np.array_equal(seen[a], seen[b])
    alone = server.client.run(graph() | {"one": applied("base", "who")} | sampled("one"))
    assert np.array_equal(pictures(server, alone, "one"), seen["one"])


def test_changing_a_later_reference_leaves_the_cached_earlier_one_alone(server):
    def run(weight):
        prompt = graph() | {
            "place": node("TroupeBackground", image=["cup", 0], weight=weight, mode="inspire"),
            "one": applied("base", "who"),
            "two": applied("one", "place"),
        }
        prompt |= sampled("one") | sampled("two")
        prompt["one_sampler"]["inputs"]["seed"] = int(weight * 100)  # sample again
        outputs = server.client.run(prompt)
        return pictures(server, outputs, "one"), pictures(server, outputs, "two")

    first = run(0.3)
    run(0.9)
    again = run(0.3)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])


def test_base_adapters_masks_and_frames(server, plain):
    black = node("SolidMask", value=0.0, width=SIZE, height=SIZE)
    half = node("SolidMask", value=0.5, width=SIZE // 2, height=SIZE)
    prompt = graph(adapter=BASE, frames=2) | {
        "black": black,
        "half": half,
        "left": node(
            "MaskComposite", destination=["black", 0], source=["half", 0], x=0, y=0, operation="add"
        ),
        "everywhere": applied("base", "who"),
        "nowhere": applied("base", "who", mask=["black", 0]),
        "somewhere": applied("base", "who", mask=["left", 0]),
        "against": applied("base", "who", avoid=["cup", 0]),
        "dark": applied("base", "who", negative="black"),
    }
    names = ("everywhere", "nowhere", "somewhere", "against", "dark", "base")
    for name in names:
        prompt |= sampled(name)
    outputs = server.client.run(prompt)
    seen = {name: pictures(server, outputs, name) for name in names}
    assert all(len(images) == 2 for images in seen.values())
    assert np.array_equal(seen["nowhere"], seen["base"])
    different = [seen[name].tobytes() for name in names if name != "nowhere"]
    assert len(set(different)) == 5


def place(server, folder: str, name: str, state: dict) -> str:
    (server.models_dir / folder).mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in state.items()}, server.models_dir / folder / name)
    return name


def sd15_adapter(server) -> str:
    state = {
        "image_proj.proj.weight": torch.zeros(4 * 768, 1024),
        "image_proj.proj.bias": torch.zeros(4 * 768),
        "image_proj.norm.weight": torch.ones(768),
        "image_proj.norm.bias": torch.zeros(768),
    }
    for number in range(1, 32, 2):
        for kind in "kv":
            state[f"ip_adapter.{number}.to_{kind}_ip.weight"] = torch.zeros(320, 768)
    return place(server, "ipadapter", "ip-adapter_sd15.safetensors", state)


def face_id_adapter(server) -> str:
    state = {
        "image_proj.proj.0.weight": torch.zeros(8, 512),
        "image_proj.proj.2.weight": torch.zeros(8, 8),
        "image_proj.norm.weight": torch.ones(8),
        "ip_adapter.1.to_k_ip.weight": torch.zeros(8, 8),
        "ip_adapter.1.to_v_ip.weight": torch.zeros(8, 8),
    }
    return place(server, "ipadapter", "ip-adapter-faceid_sdxl.safetensors", state)


def short_adapter(server) -> str:
    state = load_file(server.models_dir / "ipadapter" / PLUS)
    state = {k: v for k, v in state.items() if not k.startswith(("ip_adapter.1.", "ip_adapter.3."))}
    return place(server, "ipadapter", "short.safetensors", state)


def broken_adapter(server) -> str:
    (server.models_dir / "ipadapter" / "broken.bin").write_bytes(b"PK\3\4 half a file")
    return "broken.bin"


def wide_encoder(server) -> str:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=192, intermediate_size=64, num_hidden_layers=3, num_attention_heads=3,
        image_size=64, patch_size=32, projection_dim=48,
    )  # fmt: skip
    state = CLIPVisionModelWithProjection(config).state_dict()
    return place(server, "clip_vision", "wide.safetensors", state)


MISTAKES = {
    "sd15": (
        {"adapter": sd15_adapter},
        ("'ip-adapter_sd15.safetensors' is made for Stable Diffusion 1.5", "but the model is"),
    ),
    "face_id": ({"adapter": face_id_adapter}, ("is a FaceID adapter", "not supported yet")),
    "short": (
        {"adapter": short_adapter},
        ("'short.safetensors' is made for another UNet", "trained for this model"),
    ),
    "broken": ({"adapter": broken_adapter}, ("'broken.bin' cannot be read", "download")),
    "encoder": (
        {"vision": wide_encoder},
        (
            "was trained with an image encoder of width 128",
            "the CLIP vision model is an image encoder of width 192",
            "Load CLIP Vision",
        ),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_in_words_and_the_server_goes_on(server, plain, name):
    made, parts = MISTAKES[name]
    files = {what: make(server) for what, make in made.items()}
    prompt = graph(**files) | {"one": applied("base", "who")} | sampled("one")
    with pytest.raises(ExecutionError) as caught:
        server.client.run(prompt)
    for part in parts:
        assert part in caught.value.message
    assert "\n" not in caught.value.message
    prompt = {k: v for k, v in graph().items() if k in ("base", "yes", "no", "latent")}
    prompt |= sampled("base")
    assert np.array_equal(pictures(server, server.client.run(prompt), "base"), plain)


def test_frames_that_do_not_fit_are_told_before_sampling(server):
    prompt = graph(frames=3) | {
        "two": node("ImageBatch", image1=["face", 0], image2=["cup", 0]),
        "who": node("TroupeCharacter", image=["two", 0], weight=1.0, combine="per frame"),
        "one": applied("base", "who"),
    }
    with pytest.raises(ExecutionError, match="2 reference pictures meet 3 latents"):
        server.client.run(prompt | sampled("one"))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "missing.safetensors",
        "../checkpoints/nano_sdxl.safetensors",
        "/etc/passwd",
        "..\\checkpoints\\nano_sdxl.safetensors",
        "a\0.bin",
        "C:\\x.bin",
    ],
)
def test_other_names_are_refused(server, name):
    prompt = graph() | {"one": applied("base", "who")} | sampled("one")
    prompt["adapter"]["inputs"]["ipadapter_name"] = name
    with pytest.raises(PromptError, match="TroupeLoadIPAdapter: .*is no adapter file"):
        server.client.run(prompt)


def test_the_folder_is_known_and_holds_adapters_only(server):
    (server.models_dir / "ipadapter" / "readme.txt").write_text("no model", "ascii")
    info = server.client.object_info("TroupeLoadIPAdapter")["TroupeLoadIPAdapter"]
    listed = json.dumps(info["input"]["required"]["ipadapter_name"])
    assert PLUS in listed and BASE in listed and "readme" not in listed
    assert PLUS in server.client.get_json("/models/ipadapter")
