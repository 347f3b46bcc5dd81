"""A trained file in ComfyUI does what diffusers + PEFT trained; captions and pictures agree too."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.parity import tiny
from tools.inprocess import load_pack
from tools.server import ROOT
from training import open_checkpoint, parse_job
from training.adapter import add_adapter, target_modules
from training.export import lora_names, lora_tensors, write_lora
from training.keys import PREFIXES, unet_module_table

LIMIT = 1e-4


def unet_config(unet) -> dict:
    return dict(unet.config)


@pytest.fixture(scope="module")
def lora(tiny_sdxl, tmp_path_factory):
    """A LoRA with random weights in diffusers + PEFT, and the file our export made of it."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("lora")
    oracle = copy.deepcopy(tiny_sdxl.oracle)
    weights = oracle.state_dict()
    table = unet_module_table(unet_config(oracle))
    state = {
        f"{PREFIXES['unet']}{sgm}.{kind}": weights[f"{ours}.{kind}"].clone()
        for sgm, ours in table.items()
        for kind in ("weight", "bias")
        if f"{ours}.{kind}" in weights
    }
    save_file(state, folder / "tiny.safetensors")
    checkpoint = open_checkpoint(folder / "tiny.safetensors")
    job = parse_job(
        {
            "base": {"checkpoint": "-"},
            "dataset": {"folder": "-"},
            "adapter": {"rank": 8, "alpha": 4.0},
            "saving": {"precision": "fp32"},
        }
    )
    adapter = add_adapter(oracle, job)
    with torch.no_grad():
        for i, (_, pair) in enumerate(adapter.pairs()):
            pair.up.normal_(std=0.05, generator=torch.Generator().manual_seed(i))
    tensors = lora_tensors(adapter.state(), job, checkpoint)
    write_lora(folder / "lora.safetensors", tensors, {"ss_v2": "False"}, checkpoint)
    return SimpleNamespace(oracle=oracle, adapter=adapter, path=folder / "lora.safetensors")


def oracle_output(unet, call):
    return unet(
        call.x,
        call.timesteps,
        encoder_hidden_states=call.context,
        added_cond_kwargs={"vector": call.vector},
    ).sample


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_comfyui_computes_what_peft_computes(tiny_sdxl, lora, weight, caplog):
    import comfy.sd
    import comfy.utils

    tensors = comfy.utils.load_torch_file(str(lora.path), safe_load=True)
    model, _ = comfy.sd.load_lora_for_models(tiny_sdxl.model, None, tensors, weight, 0)
    assert "not loaded" not in caplog.text.lower()
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    _, calls = tiny.sample(model, latent=latent)
    call = calls[0]
    scale = lora.adapter.alpha / lora.adapter.rank * weight
    for name in lora.adapter.names:
        lora.oracle.get_submodule(name).scaling["default"] = scale
    with torch.no_grad():
        expected = oracle_output(lora.oracle, call)
        plain = oracle_output(tiny_sdxl.oracle, call)
    assert (expected - call.output).abs().max() <= LIMIT
    assert (plain - call.output).abs().max() > 100 * LIMIT  # the LoRA does something


def test_full_sdxl_keys_are_those_of_comfyui(comfy):
    """All 722 names of sd-scripts lead to the weights that were trained."""
    import comfy.lora
    import comfy.supported_models
    from diffusers import UNet2DConditionModel

    config = tiny.comfy_unet_config() | {
        "model_channels": 320,
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "context_dim": 2048,
        "adm_in_channels": 2816,
    }
    full = comfy.supported_models.SDXL(config)
    full.set_inference_dtype(torch.float16, None)
    model = full.get_model({}, device=torch.device("meta"))
    known = comfy.lora.model_lora_keys_unet(model, {})
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    table = unet_module_table(unet_config(unet))
    names = lora_names(SimpleNamespace(unet_config=unet_config(unet)))
    weights = model.state_dict()
    targets = target_modules(unet, "transformer")
    assert len(targets) == 722
    sgm_of = {ours: sgm for sgm, ours in table.items()}
    for target in targets:
        assert known[names[target]] == f"diffusion_model.{sgm_of[target]}.weight"
        assert weights[known[names[target]]].shape == unet.get_submodule(target).weight.shape
    for layer, name in names.items():  # and so do all layers that could be trained one day
        assert known[name] == f"diffusion_model.{sgm_of[layer]}.weight"


@pytest.fixture(scope="module")
def nano_in_comfy(comfy, nano):
    load_pack(ROOT / "demo" / "companion")
    from comfy.sd import load_checkpoint_guess_config

    model, clip, vae, _ = load_checkpoint_guess_config(str(nano.checkpoint))
    return SimpleNamespace(model=model, clip=clip, vae=vae, path=nano.checkpoint)


def test_captions_become_what_comfyui_s_text_encode_makes(nano_in_comfy, comfy):
    """Tokens, padding, layer and pooling: training sees the conditioning that inference gives."""
    from training.text import TextEncoding

    tokenizer = comfy.path / "comfy" / "sd1_tokenizer"
    checkpoint = open_checkpoint(nano_in_comfy.path)
    encoder = TextEncoding(checkpoint, str(tokenizer), torch.float32)
    clip = nano_in_comfy.clip
    for part in (clip.cond_stage_model.clip_l, clip.cond_stage_model.clip_g):
        part.float()
    for caption in ("", "a photo of zoe, red dress", "ZOE's  #1 -- caf\u00e9!", "word " * 60):
        with torch.inference_mode():
            theirs, pooled = clip.encode_from_tokens(clip.tokenize(caption), return_pooled=True)
        ours, our_pooled = encoder.encode([caption])
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(our_pooled, pooled, atol=1e-5, rtol=1e-4)


def test_long_captions_become_what_comfyui_makes_of_them(nano_in_comfy, comfy):
    """Parts of 75 tokens, their padding, the pooled state, and batches of different lengths."""
    from comfy.conds import CONDCrossAttn

    from training.text import TextEncoding, stack_contexts

    checkpoint = open_checkpoint(nano_in_comfy.path)
    tokenizer = comfy.path / "comfy" / "sd1_tokenizer"
    encoder = TextEncoding(checkpoint, str(tokenizer), torch.float32)
    clip, contexts = nano_in_comfy.clip, []
    for part in (clip.cond_stage_model.clip_l, clip.cond_stage_model.clip_g):
        part.float()
    for words in (0, 1, 74, 75, 76, 150, 151, 200, 225):
        caption = " ".join(["word", "red,"][n % 3 == 2] for n in range(words))
        with torch.inference_mode():
            theirs, pooled = clip.encode_from_tokens(clip.tokenize(caption), return_pooled=True)
        ours, our_pooled, length = encoder.encode_long(caption, 300)
        assert len(ours) == 77 * max(1, -(-length // 75))
        torch.testing.assert_close(ours[None], theirs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(our_pooled[None], pooled, atol=1e-5, rtol=1e-4)
        contexts.append(ours)
    some = [contexts[1], contexts[5], contexts[7]]
    assert len({len(c) for c in some}) == 3
    conditions = [CONDCrossAttn(c[None]) for c in some]
    theirs = conditions[0].concat(conditions[1:])
    assert torch.equal(stack_contexts(some), theirs)


def test_pictures_become_what_comfyui_s_vae_encode_makes(nano_in_comfy, tmp_path):
    from training.buckets import place_image, plan_buckets
    from training.checkpoint import load_vae
    from training.dataset import read_dataset

    pixels = np.random.default_rng(0).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (place,) = plan_buckets(read_dataset(tmp_path).items, 192, step=64)
    assert place.bucket_size == place.resized == (192, 128)  # nothing is scaled or cut
    ours = load_vae(open_checkpoint(nano_in_comfy.path)).encode(place_image(place)[None])
    with torch.inference_mode():
        latent = nano_in_comfy.vae.encode(torch.from_numpy(pixels)[None] / 255.0)
        theirs = nano_in_comfy.model.model.process_latent_in(latent)
    torch.testing.assert_close(ours, theirs.float(), atol=2e-5, rtol=1e-4)


def test_size_conditioning_is_read_as_comfyui_writes_it(nano_in_comfy):
    """Order of the six numbers and of the pooled embedding in the UNet's vector input."""
    from diffusers.models.embeddings import Timesteps

    pooled = torch.arange(64.0)[None]
    sizes = {
        "width": 640,
        "height": 512,
        "crop_w": 32,
        "crop_h": 16,
        "target_width": 256,
        "target_height": 192,
    }
    vector = nano_in_comfy.model.model.encode_adm(pooled_output=pooled, device="cpu", **sizes)
    ids = torch.tensor([512.0, 640, 16, 32, 192, 256])  # Placement.time_ids
    embedded = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)(ids).flatten()[None]
    torch.testing.assert_close(vector, torch.cat([pooled, embedded], dim=1), atol=1e-5, rtol=1e-5)
