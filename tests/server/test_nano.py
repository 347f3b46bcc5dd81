"""Nano through ComfyUI's own loaders: every weight finds its place, every input matters."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from demo.nano import build_nano

SIZE = 256
COMPLAINTS = ("missing", "unexpected", "no match", "leftover", "warning", "error", "not loaded")


@pytest.fixture(scope="module")
def photos(server) -> dict[str, str]:
    """Names of two square photographs in ComfyUI's input folder."""
    for name, pixels in (("astronaut", data.astronaut()), ("coffee", data.coffee()[:, 100:500])):
        Image.fromarray(pixels).resize((SIZE, SIZE)).save(server.input_dir / f"{name}.png")
    return {"astronaut": "astronaut.png", "coffee": "coffee.png"}


def picture_graph(text: str = "a red fox", seed: int = 1, pose: str | None = None) -> dict:
    sampler = {"steps": 20, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal"}
    graph = {
        "base": node("CheckpointLoaderSimple", ckpt_name="nano_sdxl.safetensors"),
        "yes": node("CLIPTextEncode", clip=["base", 1], text=text),
        "no": node("CLIPTextEncode", clip=["base", 1], text="blurry"),
        "empty": node("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=1),
        "sample": node(
            "KSampler",
            model=["base", 0],
            positive=["yes", 0],
            negative=["no", 0],
            latent_image=["empty", 0],
            seed=seed,
            denoise=1.0,
            **sampler,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["base", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="nano"),
    }
    if pose:
        both = {"positive": ["yes", 0], "negative": ["no", 0], "vae": ["base", 2]}
        span = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
        graph |= {
            "net": node("ControlNetLoader", control_net_name="nano_openpose.safetensors"),
            "hint": node("LoadImage", image=pose),
            "control": node(
                "ControlNetApplyAdvanced", control_net=["net", 0], image=["hint", 0], **both, **span
            ),
        }
        graph["sample"]["inputs"].update(positive=["control", 0], negative=["control", 1])
    return graph


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def picture(server, graph: dict) -> np.ndarray:
    """(height, width, 3) uint8 of the one image the graph saves."""
    (saved,) = server.client.run(graph, timeout=300)["save"]["images"]
    return np.asarray(Image.open(io.BytesIO(server.client.view(**saved))).convert("RGB"))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


@pytest.fixture(scope="module")
def fox(server) -> np.ndarray:
    return picture(server, picture_graph())


def test_a_picture_is_neither_flat_nor_saturated(server, fox):
    assert fox.shape == (SIZE, SIZE, 3)
    assert fox.std() > 20
    assert np.mean((fox < 2) | (fox > 253)) < 0.4


def test_text_and_seed_and_control_change_the_picture(server, fox, photos):
    assert difference(picture(server, picture_graph("a blue house at night")), fox) > 5
    assert difference(picture(server, picture_graph(seed=2)), fox) > 5
    assert difference(picture(server, picture_graph(pose=photos["astronaut"])), fox) > 5


def test_the_same_request_gives_the_same_picture_from_fresh_models(server, fox):
    server.client.free()
    again = picture_graph()
    again["save"]["inputs"]["filename_prefix"] = "again"
    assert np.array_equal(picture(server, again), fox)


def test_the_autoencoder_knows_photographs(server, photos):
    graph = {
        "base": node("CheckpointLoaderSimple", ckpt_name="nano_sdxl.safetensors"),
        "load": node("LoadImage", image=photos["astronaut"]),
        "encode": node("VAEEncode", pixels=["load", 0], vae=["base", 2]),
        "decode": node("VAEDecode", samples=["encode", 0], vae=["base", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="coded"),
    }
    decoded = picture(server, graph)
    original = np.asarray(Image.open(server.input_dir / photos["astronaut"]).convert("RGB"))
    blocks = original.reshape(SIZE // 8, 8, SIZE // 8, 8, 3).mean((1, 3)).repeat(8, 0).repeat(8, 1)
    assert difference(decoded, blocks) < 8  # the mean of 8x8 pixels is what nano keeps


def test_no_loader_complains(server, photos, fox):
    """All stock loaders read nano's files completely; the log is where ComfyUI says otherwise."""
    server.client.free()
    before = len(server.log_text())
    picture(server, picture_graph("a portrait", pose=photos["coffee"]))
    vision = {
        "load": node("CLIPVisionLoader", clip_name="nano_clip_vision.safetensors"),
        "photo": node("LoadImage", image=photos["coffee"]),
        "see": node("CLIPVisionEncode", clip_vision=["load", 0], image=["photo", 0], crop="none"),
        "show": node("PreviewAny", source=["see", 0]),
    }
    assert "clip_vision.Output" in server.client.run(vision)["show"]["text"][0]
    log = server.log_text()[before:].lower()
    assert "got prompt" in log
    assert not [line for line in log.splitlines() if any(word in line for word in COMPLAINTS)]


def test_building_twice_gives_the_same_bytes(nano_models, tmp_path):
    for path in vars(build_nano(tmp_path)).values():
        assert path.read_bytes() == (nano_models / path.relative_to(tmp_path)).read_bytes()


def test_another_seed_gives_other_weights(nano_models, tmp_path):
    path = build_nano(tmp_path, seed=1).clip_vision
    assert path.read_bytes() != (nano_models / path.relative_to(tmp_path)).read_bytes()
