"""How SDXL's two naming worlds map onto each other.

A checkpoint file uses the names of Stability's `sgm` code (`input_blocks.4.1...`), diffusers and
transformers use their own (`down_blocks.1.attentions.0...`). Every table here is computed from a
model's configuration, so full SDXL, its pruned relatives and miniature models share one rule.

Names are without the part's prefix (PREFIXES) unless a function says otherwise. Tables run from
the sgm name to the library name; each is one-to-one, so the way back is the inverse.
"""

from collections.abc import Iterator, Mapping

import torch

PREFIXES = {
    "unet": "model.diffusion_model.",
    "text_l": "conditioner.embedders.0.transformer.",
    "text_g": "conditioner.embedders.1.model.",
    "vae": "first_stage_model.",
}

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
}
_TRANSFORMER_BLOCK = (
    *(f"attn{a}.{p}" for a in (1, 2) for p in ("to_q", "to_k", "to_v", "to_out.0")),
    *("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2"),
)
_WITHOUT_BIAS = ("to_q", "to_k", "to_v")


# ---------------------------------------------------------------------------------------- UNet


def unet_depths(config: Mapping) -> tuple[list[list[int]], int, list[list[int]]]:
    """(down, middle, up): transformer blocks per layer of a UNet2DConditionModel config.

    0 is a layer without attention. The middle is -1 for one resnet only, -2 for no middle block.
    """
    types = list(config["down_block_types"])
    layers = _per_level(config.get("layers_per_block", 2), len(types))
    depths = _per_level(config.get("transformer_layers_per_block", 1), len(types))
    down = [
        _per_level(depth, count) if "CrossAttn" in kind else [0] * count
        for kind, count, depth in zip(types, layers, depths, strict=True)
    ]
    reverse = config.get("reverse_transformer_layers_per_block") or depths[::-1]
    up = [
        _per_level(depth, count + 1) if "CrossAttn" in kind else [0] * (count + 1)
        for kind, count, depth in zip(config["up_block_types"], layers[::-1], reverse, strict=True)
    ]
    middle_type = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if middle_type is None:
        middle = -2
    elif "CrossAttn" in middle_type:
        middle = _per_level(depths[-1], 1)[0]
    else:
        middle = -1
    return down, middle, up


def _per_level(value, count: int) -> list:
    return list(value)[:count] if isinstance(value, list | tuple) else [value] * count


def unet_module_table(config: Mapping) -> dict[str, str]:
    """sgm module -> diffusers module for every module with weights of this UNet."""
    return dict(_unet_modules(config))


def _unet_modules(config: Mapping) -> Iterator[tuple[str, str]]:
    channels = list(config["block_out_channels"])
    down, middle, up = unet_depths(config)
    yield "input_blocks.0.0", "conv_in"
    for sgm, ours in (("time_embed", "time_embedding"), ("label_emb.0", "add_embedding")):
        yield f"{sgm}.0", f"{ours}.linear_1"
        yield f"{sgm}.2", f"{ours}.linear_2"

    number = 1
    for level, depths in enumerate(down):
        for layer, depth in enumerate(depths):
            widened = layer == 0 and level > 0 and channels[level] != channels[level - 1]
            source, target = f"input_blocks.{number}", f"down_blocks.{level}"
            yield from _resnet(f"{source}.0", f"{target}.resnets.{layer}", widened)
            yield from _attention(f"{source}.1", f"{target}.attentions.{layer}", depth)
            number += 1
        if level < len(down) - 1:
            yield f"input_blocks.{number}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
            number += 1

    if middle >= -1:
        yield from _resnet("middle_block.0", "mid_block.resnets.0", False)
    if middle >= 0:
        yield from _attention("middle_block.1", "mid_block.attentions.0", middle)
        yield from _resnet("middle_block.2", "mid_block.resnets.1", False)

    number = 0
    for level, depths in enumerate(up):
        for layer, depth in enumerate(depths):
            source, target = f"output_blocks.{number}", f"up_blocks.{level}"
            yield from _resnet(f"{source}.0", f"{target}.resnets.{layer}", True)
            yield from _attention(f"{source}.1", f"{target}.attentions.{layer}", depth)
            if layer == len(depths) - 1 and level < len(up) - 1:
                place = 2 if depth else 1
                yield f"{source}.{place}.conv", f"{target}.upsamplers.0.conv"
            number += 1
    yield "out.0", "conv_norm_out"
    yield "out.2", "conv_out"


def _resnet(source: str, target: str, shortcut: bool) -> Iterator[tuple[str, str]]:
    for sgm, ours in _RESNET.items():
        yield f"{source}.{sgm}", f"{target}.{ours}"
    if shortcut:
        yield f"{source}.skip_connection", f"{target}.conv_shortcut"


def _attention(source: str, target: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth == 0:
        return
    for name in ("norm", "proj_in", "proj_out"):
        yield f"{source}.{name}", f"{target}.{name}"
    for block in range(depth):
        for name in _TRANSFORMER_BLOCK:
            inner = f"transformer_blocks.{block}.{name}"
            yield f"{source}.{inner}", f"{target}.{inner}"


def unet_key_table(config: Mapping) -> dict[str, str]:
    """sgm tensor name -> diffusers tensor name, complete for this UNet."""
    return _with_parameters(unet_module_table(config))


def _with_parameters(modules: Mapping[str, str]) -> dict[str, str]:
    table = {}
    for sgm, ours in modules.items():
        for parameter in ("weight",) if ours.endswith(_WITHOUT_BIAS) else ("weight", "bias"):
            table[f"{sgm}.{parameter}"] = f"{ours}.{parameter}"
    return table


# --------------------------------------------------------------------------------- autoencoder


def vae_key_table(config: Mapping) -> dict[str, str]:
    """sgm tensor name -> diffusers AutoencoderKL tensor name, complete for this autoencoder.

    The middle attention is 1x1 convolutions in sgm and linear layers in diffusers: same numbers,
    see `vae_from_sgm`.
    """
    modules = dict(_vae_modules(list(config["block_out_channels"]), config["layers_per_block"]))
    table = {}
    for sgm, ours in modules.items():
        for parameter in ("weight", "bias"):
            table[f"{sgm}.{parameter}"] = f"{ours}.{parameter}"
    return table


def _vae_modules(channels: list[int], layers: int) -> Iterator[tuple[str, str]]:
    last = len(channels) - 1
    yield "quant_conv", "quant_conv"
    yield "post_quant_conv", "post_quant_conv"
    for side in ("encoder", "decoder"):
        yield f"{side}.conv_in", f"{side}.conv_in"
        yield f"{side}.norm_out", f"{side}.conv_norm_out"
        yield f"{side}.conv_out", f"{side}.conv_out"
        for i in (0, 1):
            target = f"{side}.mid_block.resnets.{i}"
            yield from _vae_resnet(f"{side}.mid.block_{i + 1}", target, False)
        names = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v"}
        for sgm, ours in (names | {"proj_out": "to_out.0"}).items():
            yield f"{side}.mid.attn_1.{sgm}", f"{side}.mid_block.attentions.0.{ours}"
    for level in range(len(channels)):
        source, target = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
        for layer in range(layers):
            widened = layer == 0 and channels[level] != channels[max(level - 1, 0)]
            yield from _vae_resnet(f"{source}.block.{layer}", f"{target}.resnets.{layer}", widened)
        if level < last:
            yield f"{source}.downsample.conv", f"{target}.downsamplers.0.conv"
    for level in range(len(channels)):  # sgm counts the decoder's levels from the output side
        source, target = f"decoder.up.{last - level}", f"decoder.up_blocks.{level}"
        width, before = channels[last - level], channels[min(last - level + 1, last)]
        for layer in range(layers + 1):
            widened = layer == 0 and width != before
            yield from _vae_resnet(f"{source}.block.{layer}", f"{target}.resnets.{layer}", widened)
        if level < last:
            yield f"{source}.upsample.conv", f"{target}.upsamplers.0.conv"


def _vae_resnet(source: str, target: str, shortcut: bool) -> Iterator[tuple[str, str]]:
    for name in ("norm1", "conv1", "norm2", "conv2"):
        yield f"{source}.{name}", f"{target}.{name}"
    if shortcut:
        yield f"{source}.nin_shortcut", f"{target}.conv_shortcut"


def vae_from_sgm(state: Mapping[str, torch.Tensor], config: Mapping) -> dict[str, torch.Tensor]:
    """AutoencoderKL state dict from sgm tensors; names outside the table are left out."""
    table = vae_key_table(config)
    found = {ours: state[sgm] for sgm, ours in table.items() if sgm in state}
    return {k: _matrix(v) if "attentions.0.to_" in k else v for k, v in found.items()}


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    return weight.flatten(1) if weight.ndim == 4 else weight


def vae_to_sgm(state: Mapping[str, torch.Tensor], config: Mapping) -> dict[str, torch.Tensor]:
    """The inverse of `vae_from_sgm`."""
    out = {sgm: state[ours] for sgm, ours in vae_key_table(config).items()}
    for key, weight in out.items():
        if "attn_1." in key and weight.ndim == 2:
            out[key] = weight[..., None, None]
    return out


def taesd_from_sgm(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """AutoencoderTiny state dict from `taesd_encoder.N...` / `taesd_decoder.N...` tensors.

    TAESD counts the decoder's clamp as layer 0; diffusers clamps outside of its list.
    """
    out = {}
    for key, weight in state.items():
        side, _, rest = key.partition(".")
        if side == "taesd_encoder":
            out[f"encoder.layers.{rest}"] = weight
        elif side == "taesd_decoder":
            number, _, name = rest.partition(".")
            out[f"decoder.layers.{int(number) - 1}.{name}"] = weight
    return out


def taesd_to_sgm(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `taesd_from_sgm`."""
    out = {}
    for key, weight in state.items():
        side, _, rest = key.partition(".layers.")
        if side == "encoder":
            out[f"taesd_encoder.{rest}"] = weight
        else:
            number, _, name = rest.partition(".")
            out[f"taesd_decoder.{int(number) + 1}.{name}"] = weight
    return out


# ------------------------------------------------------------------------------- text encoders

_OPEN_CLIP = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def open_clip_key_table(layers: int) -> dict[str, str]:
    """open_clip tensor name -> transformers tensor name, for what is a plain rename."""
    table = dict(_OPEN_CLIP)
    for i in range(layers):
        for sgm, ours in _OPEN_CLIP_LAYER.items():
            for p in ("weight", "bias"):
                source = f"transformer.resblocks.{i}.{sgm}.{p}"
                table[source] = f"text_model.encoder.layers.{i}.{ours}.{p}"
    return table


def open_clip_from_sgm(state: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """CLIPTextModelWithProjection state dict (names with `text_model.`) from open_clip tensors.

    open_clip keeps query, key and value as one matrix and its projection as (in, out).
    """
    table = open_clip_key_table(layers)
    out = {ours: state[sgm] for sgm, ours in table.items() if sgm in state}
    for i in range(layers):
        for p in ("weight", "bias"):
            joint = state.get(f"transformer.resblocks.{i}.attn.in_proj_{p}")
            if joint is None:
                continue
            for name, part in zip("qkv", joint.chunk(3), strict=True):
                out[f"text_model.encoder.layers.{i}.self_attn.{name}_proj.{p}"] = part
    if "text_projection" in state:
        out["text_projection.weight"] = state["text_projection"].t().contiguous()
    elif "text_projection.weight" in state:
        out["text_projection.weight"] = state["text_projection.weight"]
    return out


def open_clip_to_sgm(state: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """The inverse of `open_clip_from_sgm`; accepts names with or without `text_model.`."""
    state = with_text_model(state)
    out = {sgm: state[ours] for sgm, ours in open_clip_key_table(layers).items()}
    for i in range(layers):
        for p in ("weight", "bias"):
            parts = [f"text_model.encoder.layers.{i}.self_attn.{n}_proj.{p}" for n in "qkv"]
            joint = torch.cat([state[name] for name in parts])
            out[f"transformer.resblocks.{i}.attn.in_proj_{p}"] = joint
    out["text_projection"] = state["text_projection.weight"].t().contiguous()
    return out


def with_text_model(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names with the `text_model.` prefix (transformers 5 drops it in CLIPTextModel)."""
    bare = ("embeddings.", "encoder.", "final_layer_norm.")
    return {f"text_model.{k}" if k.startswith(bare) else k: v for k, v in state.items()}


def without_text_model(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `with_text_model`."""
    return {k.removeprefix("text_model."): v for k, v in state.items()}


# ---------------------------------------------------------------------------- a whole checkpoint


def to_sgm_checkpoint(
    unet_state: Mapping[str, torch.Tensor],
    unet_config: Mapping,
    text_l_state: Mapping[str, torch.Tensor],
    text_g_state: Mapping[str, torch.Tensor],
    vae_state: Mapping[str, torch.Tensor],
    vae_config: Mapping | None = None,
) -> dict[str, torch.Tensor]:
    """One SDXL checkpoint, with prefixes, from diffusers/transformers state dicts.

    `vae_config` is an AutoencoderKL config; without it `vae_state` is an AutoencoderTiny's.
    """
    numbers = (k.partition("encoder.layers.")[2].partition(".")[0] for k in text_g_state)
    layers = 1 + max(int(n) for n in numbers if n)
    unet = {sgm: unet_state[ours] for sgm, ours in unet_key_table(unet_config).items()}
    vae = taesd_to_sgm(vae_state) if vae_config is None else vae_to_sgm(vae_state, vae_config)
    parts = {
        "unet": unet,
        "text_l": with_text_model(text_l_state),
        "text_g": open_clip_to_sgm(text_g_state, layers),
        "vae": vae,
    }
    return {PREFIXES[p] + k: v.contiguous() for p, state in parts.items() for k, v in state.items()}
