"""Full-size models on the meta device: every adapter pair finds the attention diffusers means."""

import pytest
import torch

from conditioning.ip_adapter import attention_layers

SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
}
SD15 = {"cross_attention_dim": 768}


def diffusers_unet(options):
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**options)


def comfy_unet(kind):
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    config = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 320,
        "num_res_blocks": [2, 2, 2] if kind == "sdxl" else [2, 2, 2, 2],
        "use_spatial_transformer": True,
        "legacy": False,
    }
    if kind == "sdxl":
        config |= {
            "channel_mult": [1, 2, 4],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "transformer_depth_middle": 10,
            "context_dim": 2048,
            "num_head_channels": 64,
            "use_linear_in_transformer": True,
            "adm_in_channels": 2816,
            "num_classes": "sequential",
        }
    else:
        config |= {
            "channel_mult": [1, 2, 4, 4],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "transformer_depth_middle": 1,
            "context_dim": 768,
            "num_heads": 8,
        }
    return UNetModel(**_copied(config), device="meta", dtype=torch.float16), config


def _copied(config):
    return {key: list(v) if isinstance(v, list) else v for key, v in config.items()}


@pytest.mark.parametrize(
    ("kind", "options", "count"), [("sdxl", SDXL, 70), ("sd15", SD15, 16)], ids=["sdxl", "sd15"]
)
def test_numbers_mean_the_same_as_in_diffusers(comfy, kind, options, count):
    import comfy.utils

    unet, config = comfy_unet(kind)
    table = comfy.utils.unet_to_diffusers(_copied(config))
    theirs = diffusers_unet(options)
    expected = {}
    for number, name in enumerate(theirs.attn_processors):
        if ".attn2." in name:
            weight = f"{name.removesuffix('processor')}to_k.weight"
            expected[table[weight]] = (number, *theirs.get_parameter(weight).shape)
    ours = {}
    for layer in attention_layers(unet):
        group, block, depth = layer.key
        prefix = "middle_block.1" if group == "middle" else f"{group}_blocks.{block}.1"
        name = f"{prefix}.transformer_blocks.{depth}.attn2.to_k.weight"
        ours[name] = (layer.number, layer.channels, layer.context_dim)
    assert len(ours) == count
    assert ours == expected


def test_sdxl_blocks_in_order_of_execution(comfy):
    layers = attention_layers(comfy_unet("sdxl")[0])
    found = {layer.key[:2]: layer.transformer_index for layer in layers}
    assert found == {
        ("input", 4): 0,
        ("input", 5): 1,
        ("input", 7): 2,
        ("input", 8): 3,
        ("middle", 0): 4,
        ("output", 0): 5,
        ("output", 1): 6,
        ("output", 2): 7,
        ("output", 3): 8,
        ("output", 4): 9,
        ("output", 5): 10,
    }
    assert [layer.index for layer in layers] == list(range(70))
