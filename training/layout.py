"""Deduce the configuration of every part of an SDXL-family checkpoint from names and shapes.

Shapes are those of the sgm layout with the part's prefix removed (keys.PREFIXES).
"""

from collections.abc import Mapping

from .errors import CheckpointError
from .keys import PREFIXES

HEAD_CHANNELS = 64  # per attention head, in the UNet and both text encoders of the SDXL family
TIME_ID_CHANNELS = 256  # sinusoidal features per number in the size and crop conditioning
TIME_IDS = 6
LATENT_SCALE = 0.13025  # SDXL's VAE: diffusers' `scaling_factor`, ComfyUI's latent format

Shapes = Mapping[str, tuple[int, ...]]


def unet_config_from_keys(shapes: Shapes) -> dict:
    """UNet2DConditionModel arguments from sgm tensor shapes (names without prefix).

    Raises:
        CheckpointError: the tensors are not an SDXL-family text-to-image UNet.
    """
    _require_sdxl(shapes)
    down, channels = _read_down(shapes)
    up = _read_up(shapes)
    middle = _read_middle(shapes)
    if len(up) != len(down):
        raise CheckpointError(
            f"The UNet has {len(down)} down and {len(up)} up levels; only symmetric ones train."
        )
    for depths in (*down, *up):
        if min(depths) == 0 < max(depths):
            raise CheckpointError("The UNet mixes layers with and without attention in one level.")
    depths = [_short(d) for d in down]
    if middle >= 0 and max(down[-1]) == 0:
        depths[-1] = middle
    elif middle >= 0 and down[-1][0] != middle:
        raise CheckpointError(
            f"The UNet's middle block has {middle} transformer blocks, its last level {down[-1]}."
        )
    symmetric = all(isinstance(d, int) for d in depths) and all(
        set(u) == set(d) for u, d in zip(up, reversed(down), strict=True)
    )
    kind = next(k for k in shapes if k.endswith(".proj_in.weight"))
    context = next(k for k in shapes if k.endswith(".attn2.to_k.weight"))
    return {
        "sample_size": 128,
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": [len(d) for d in down],
        "down_block_types": ["CrossAttnDownBlock2D" if max(d) else "DownBlock2D" for d in down],
        "up_block_types": ["CrossAttnUpBlock2D" if max(d) else "UpBlock2D" for d in up],
        "mid_block_type": {-1: "UNetMidBlock2D", -2: None}.get(middle, "UNetMidBlock2DCrossAttn"),
        "transformer_layers_per_block": depths,
        "reverse_transformer_layers_per_block": None if symmetric else [_short(d) for d in up],
        # diffusers' historic misnomer: this is the number of heads per level
        "attention_head_dim": [max(1, c // HEAD_CHANNELS) for c in channels],
        "cross_attention_dim": shapes[context][1],
        "use_linear_projection": len(shapes[kind]) == 2,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_ID_CHANNELS,
        "projection_class_embeddings_input_dim": shapes["label_emb.0.0.weight"][1],
    }


def _require_sdxl(shapes: Shapes) -> None:
    if "input_blocks.0.0.weight" not in shapes or "out.2.weight" not in shapes:
        raise CheckpointError("It holds no UNet in SDXL's layout: choose an SDXL checkpoint.")
    if "label_emb.0.0.weight" not in shapes:
        raise CheckpointError(
            "Its UNet has no size conditioning, so it is no SDXL model (SD 1.x or 2.x?): "
            "choose an SDXL checkpoint."
        )
    if shapes["input_blocks.0.0.weight"][1] != 4:
        raise CheckpointError("Its UNet is an inpainting or edit model: choose a plain SDXL one.")
    if not any(k.endswith(".attn2.to_k.weight") for k in shapes):
        raise CheckpointError("Its UNet has no text attention: choose an SDXL checkpoint.")


def _depth(shapes: Shapes, place: str) -> int:
    depth = 0
    while f"{place}.transformer_blocks.{depth}.norm1.weight" in shapes:
        depth += 1
    return depth


def _read_down(shapes: Shapes) -> tuple[list[list[int]], list[int]]:
    levels: list[list[int]] = [[]]
    channels: list[int] = []
    number = 1
    while True:
        convolution = shapes.get(f"input_blocks.{number}.0.in_layers.2.weight")
        if convolution is not None:
            if not levels[-1]:
                channels.append(convolution[0])
            levels[-1].append(_depth(shapes, f"input_blocks.{number}.1"))
        elif f"input_blocks.{number}.0.op.weight" in shapes:
            levels.append([])
        else:
            break
        number += 1
    if not all(levels):
        raise CheckpointError("Its UNet is incomplete: download the checkpoint again.")
    return levels, channels


def _read_up(shapes: Shapes) -> list[list[int]]:
    levels: list[list[int]] = [[]]
    number = 0
    while f"output_blocks.{number}.0.in_layers.2.weight" in shapes:
        levels[-1].append(_depth(shapes, f"output_blocks.{number}.1"))
        if any(f"output_blocks.{number}.{place}.conv.weight" in shapes for place in (1, 2)):
            levels.append([])
        number += 1
    if not all(levels):
        raise CheckpointError("Its UNet is incomplete: download the checkpoint again.")
    return levels


def _read_middle(shapes: Shapes) -> int:
    if "middle_block.1.norm.weight" in shapes:
        return _depth(shapes, "middle_block.1")
    return -1 if "middle_block.0.in_layers.2.weight" in shapes else -2


def _short(depths: list[int]) -> int | list[int]:
    return max(depths[0], 1) if len(set(depths)) == 1 else depths


def text_config_from_keys(shapes: Shapes, part: str) -> dict:
    """CLIPTextConfig arguments of 'text_l' or 'text_g' from its sgm shapes (without prefix)."""
    if part == "text_l":
        stem, layer = "text_model.", "text_model.encoder.layers.{}.mlp.fc1.weight"
        token = shapes.get(f"{stem}embeddings.token_embedding.weight")
        position = shapes.get(f"{stem}embeddings.position_embedding.weight")
        projection = None
    else:
        layer = "transformer.resblocks.{}.mlp.c_fc.weight"
        token = shapes.get("token_embedding.weight")
        position = shapes.get("positional_embedding")
        projection = shapes.get("text_projection") or shapes.get("text_projection.weight")
    if token is None or position is None or layer.format(0) not in shapes:
        raise CheckpointError(
            f"It holds no text encoder at {PREFIXES[part]!r}: choose a full SDXL checkpoint."
        )
    layers = 0
    while layer.format(layers) in shapes:
        layers += 1
    hidden = token[1]
    return {
        "vocab_size": token[0],
        "hidden_size": hidden,
        "intermediate_size": shapes[layer.format(0)][0],
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // HEAD_CHANNELS),
        "max_position_embeddings": position[0],
        # CLIP-L was trained with the quick approximation, OpenCLIP bigG with the exact GELU
        "hidden_act": "quick_gelu" if part == "text_l" else "gelu",
        "projection_dim": hidden if projection is None else _projection_width(shapes),
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407 if part == "text_l" else 0,
    }


def _projection_width(shapes: Shapes) -> int:
    turned = shapes.get("text_projection")  # open_clip stores (in, out)
    return turned[1] if turned else shapes["text_projection.weight"][0]


def vae_config_from_keys(shapes: Shapes) -> dict:
    """AutoencoderKL arguments from sgm tensor shapes (names without prefix)."""
    if "encoder.conv_in.weight" not in shapes or "decoder.conv_in.weight" not in shapes:
        raise CheckpointError(
            f"It holds no VAE at {PREFIXES['vae']!r}: choose a checkpoint with a baked-in VAE."
        )
    channels, layers = [], 0
    while f"encoder.down.{len(channels)}.block.0.conv1.weight" in shapes:
        channels.append(shapes[f"encoder.down.{len(channels)}.block.0.conv1.weight"][0])
    while f"encoder.down.0.block.{layers}.conv1.weight" in shapes:
        layers += 1
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "norm_num_groups": min(32, channels[0]),
        "scaling_factor": LATENT_SCALE,
    }
