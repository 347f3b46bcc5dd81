"""Key tables and configurations against the libraries' own models, and loading against oracles."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from training.checkpoint import load_text_encoders, load_unet, load_vae, open_checkpoint
from training.errors import CheckpointError
from training.keys import to_sgm_checkpoint, unet_key_table, vae_key_table, vae_to_sgm
from training.layout import text_config_from_keys, unet_config_from_keys, vae_config_from_keys

VARIANTS = {  # what differs from SDXL
    "SDXL": {},
    "SSD-1B": {
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
        "mid_block_type": "UNetMidBlock2D",
    },
    "Vega": {"transformer_layers_per_block": [1, 1, 2], "mid_block_type": "UNetMidBlock2D"},
    "KOALA-700M": {
        "layers_per_block": [1, 1, 1],
        "transformer_layers_per_block": [1, 2, 5],
        "mid_block_type": None,
    },
    "nano": {
        "block_out_channels": [64, 128, 192],
        "transformer_layers_per_block": [1, 1, 2],
        "attention_head_dim": [1, 2, 3],
        "cross_attention_dim": 128,
        "projection_class_embeddings_input_dim": 1600,
    },
}
KL = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
}
SMALL_KL = KL | {
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 16,
}


def meta_unet(config: dict):
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**config)


@pytest.mark.parametrize("name", VARIANTS)
def test_unet_table_is_complete_and_its_configuration_is_read_back(name, sdxl_config):
    config = sdxl_config | VARIANTS[name]
    weights = meta_unet(config).state_dict()
    table = unet_key_table(config)
    assert sorted(table.values()) == sorted(weights)
    shapes = {sgm: tuple(weights[ours].shape) for sgm, ours in table.items()}
    found = unet_config_from_keys(shapes)
    assert unet_key_table(found) == table
    again = meta_unet(found)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in weights.items()
    }
    heads = {
        n: m.heads for n, m in meta_unet(config).named_modules() if n.endswith(("attn1", "attn2"))
    }
    assert {n: m.heads for n, m in again.named_modules() if n in heads} == heads


def test_full_sdxl_counts_its_published_parameters(sdxl_unet):
    assert sum(p.numel() for p in sdxl_unet.parameters()) == 2_567_463_684


@pytest.mark.parametrize("config", [KL, SMALL_KL], ids=["SDXL", "small"])
def test_vae_table_is_complete_and_its_configuration_is_read_back(config):
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        model = AutoencoderKL(**config)
    state = model.state_dict()
    assert sorted(vae_key_table(config).values()) == sorted(state)
    sgm = vae_to_sgm(state, config)
    assert sgm["encoder.mid.attn_1.q.weight"].ndim == 4
    found = vae_config_from_keys({k: tuple(v.shape) for k, v in sgm.items()})
    with torch.device("meta"):
        again = AutoencoderKL(**found)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in state.items()
    }


def test_parts_load_bit_identical(tiny_checkpoint, tiny_models):
    checkpoint = open_checkpoint(tiny_checkpoint)
    ids = torch.tensor([[49406, 320, 1125, 49407] + [49407] * 73])
    with torch.no_grad():
        for ours, theirs in zip(
            load_text_encoders(checkpoint),
            (tiny_models["text_l"], tiny_models["text_g"]),
            strict=True,
        ):
            a, b = (m(ids, output_hidden_states=True) for m in (ours, theirs))
            assert torch.equal(a.hidden_states[-2], b.hidden_states[-2])
            if hasattr(b, "text_embeds"):
                assert torch.equal(a.text_embeds, b.text_embeds)
    unet = load_unet(checkpoint)
    for key, value in tiny_models["unet"].state_dict().items():
        assert torch.equal(unet.state_dict()[key], value)
    assert not any(p.requires_grad or p.is_meta for p in unet.parameters())
    pixels = torch.rand(1, 3, 32, 48) * 2 - 1
    vae = load_vae(checkpoint)
    with torch.no_grad():
        expected = tiny_models["vae"].encode(pixels).latents
    assert torch.equal(vae.encode(pixels), expected * 0.13025)
    assert vae.decode(vae.encode(pixels)).shape == pixels.shape


def test_taesd_scale_and_shift_are_those_of_comfyui(tiny_tensors, tiny_models, tmp_path):
    path = tmp_path / "scaled.safetensors"
    extra = {
        "first_stage_model.vae_scale": torch.tensor(0.13025),
        "first_stage_model.vae_shift": torch.tensor(0.5),
    }
    save_file(tiny_tensors | extra, path)
    vae = load_vae(open_checkpoint(path))
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        raw = tiny_models["vae"].encode(pixels).latents / 0.13025 + 0.5
        expected = tiny_models["vae"].decode((raw - 0.5) * 0.13025).sample.clamp(-1, 1)
    torch.testing.assert_close(vae.encode(pixels), raw * 0.13025)
    torch.testing.assert_close(vae.decode(raw * 0.13025), expected)


def test_kl_vae_loads_bit_identical(tiny_models, tiny_unet_config, tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    model = AutoencoderKL(**SMALL_KL).eval()
    states = [tiny_models[k].state_dict() for k in ("unet", "text_l", "text_g")]
    path = tmp_path / "kl.safetensors"
    states = [states[0], tiny_unet_config, *states[1:], model.state_dict(), SMALL_KL]
    save_file(to_sgm_checkpoint(*states), path)
    vae = load_vae(open_checkpoint(path))
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = model.encode(pixels).latent_dist.mode() * 0.13025
        decoded = model.decode(expected / 0.13025).sample.clamp(-1, 1)
    assert vae.factor == 2
    assert torch.equal(vae.encode(pixels), expected)
    assert torch.equal(vae.decode(expected), decoded)


def test_text_configuration_is_read_from_shapes(tiny_checkpoint):
    checkpoint = open_checkpoint(tiny_checkpoint)
    for part, act in (("text_l", "quick_gelu"), ("text_g", "gelu")):
        config = text_config_from_keys(checkpoint.part_shapes(part), part)
        assert (config["hidden_size"], config["num_hidden_layers"]) == (32, 3)
        assert config["hidden_act"] == act


def test_fingerprint_sees_every_part(tiny_checkpoint, tiny_tensors, tmp_path):
    before = open_checkpoint(tiny_checkpoint)
    changed = dict(tiny_tensors)
    key = "first_stage_model.taesd_encoder.0.bias"
    changed[key] = changed[key] + 1
    save_file(changed, tmp_path / "other.safetensors")
    after = open_checkpoint(tmp_path / "other.safetensors")
    assert before.fingerprint() != after.fingerprint()
    assert before.fingerprint("vae") != after.fingerprint("vae")
    assert before.fingerprint("unet") == after.fingerprint("unet")


def test_v_prediction_markers_are_understood(tiny_tensors, tmp_path):
    path = tmp_path / "v.safetensors"
    save_file(tiny_tensors | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.prediction_type == "v_prediction"
    assert checkpoint.zero_terminal_snr


# ------------------------------------------------------------------------------------ bad files


def without(prefix: str):
    return lambda tensors: {k: v for k, v in tensors.items() if not k.startswith(prefix)}


def replaced(key: str, value: torch.Tensor):
    return lambda tensors: tensors | {key: value}


UNET_PREFIX = "model.diffusion_model."
BAD_TENSORS = {
    "no UNet": (without(UNET_PREFIX), "no UNet in SDXL's layout"),
    "SD 1.x": (without(f"{UNET_PREFIX}label_emb"), "no SDXL model"),
    "inpainting": (
        replaced(f"{UNET_PREFIX}input_blocks.0.0.weight", torch.zeros(32, 9, 3, 3)),
        "inpainting",
    ),
    "EDM": (replaced("edm_mean", torch.zeros(1)), "EDM"),
    "quantised": (replaced("a.scale_weight", torch.zeros(1)), "quantised"),
    "refiner": (
        replaced("conditioner.embedders.0.model.x", torch.zeros(1)),
        "refiner",
    ),
    "cut off UNet": (without(f"{UNET_PREFIX}output_blocks.1"), "UNet"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_foreign_models_are_refused_by_name(case, tiny_tensors, tmp_path):
    change, message = BAD_TENSORS[case]
    path = tmp_path / "bad.safetensors"
    save_file(change(tiny_tensors), path)
    with pytest.raises(CheckpointError, match="bad.safetensors") as error:
        open_checkpoint(path)
    assert message in str(error.value)


def damaged_files(whole: bytes) -> dict[str, tuple[bytes, str]]:
    length = struct.unpack("<Q", whole[:8])[0]
    return {
        "empty": (b"", "damaged"),
        "text": (b"<!DOCTYPE html>" * 9, "damaged"),
        "truncated": (whole[:-1000], "truncated"),
        "longer": (whole + b"\0" * 8, "truncated or damaged"),
        "only a header": (whole[: 8 + length], "truncated"),
        "half a header": (whole[:100], "damaged"),
        "header of zeros": (whole[:8] + b"\0" * length + whole[8 + length :], "header"),
        "header is a list": (struct.pack("<Q", 2) + b"[]", "header"),
        "header without shapes": (struct.pack("<Q", 10) + b'{"a":{}}  ', "header"),
    }


def test_damaged_files_are_refused_by_name(tiny_checkpoint, tmp_path):
    path = tmp_path / "damaged.safetensors"
    for case, (data, message) in damaged_files(tiny_checkpoint.read_bytes()).items():
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="damaged.safetensors") as error:
            open_checkpoint(path)
        assert message in str(error.value), case


def test_missing_and_pickled_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="gone.safetensors.*does not exist"):
        open_checkpoint(tmp_path / "gone.safetensors")
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match="old.ckpt.*convert"):
        open_checkpoint(tmp_path / "old.ckpt")


def test_a_part_with_a_hole_is_named(tiny_tensors, tmp_path):
    path = tmp_path / "hole.safetensors"
    key = f"{UNET_PREFIX}middle_block.0.in_layers.0.weight"
    save_file({k: v for k, v in tiny_tensors.items() if k != key}, path)
    with pytest.raises(CheckpointError, match="UNet lacks 1 tensors.*mid_block"):
        load_unet(open_checkpoint(path))
    save_file(replaced(key, torch.zeros(7))(tiny_tensors), path)
    with pytest.raises(CheckpointError, match="UNet does not fit"):
        load_unet(open_checkpoint(path))


def test_header_shapes_are_those_of_the_tensors(tiny_checkpoint, tiny_tensors):
    checkpoint = open_checkpoint(tiny_checkpoint)
    assert checkpoint.shapes == {k: tuple(v.shape) for k, v in tiny_tensors.items()}
    assert json.dumps(checkpoint.unet_config)
    assert checkpoint.pooled_channels == 32
