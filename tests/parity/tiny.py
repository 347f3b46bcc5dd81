"""A tiny SDXL with random weights twice, in diffusers and in ComfyUI, and adapters for it.

diffusers is the oracle: it holds the same weights and implements IP-Adapter by itself.
"""

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

CHANNELS = (32, 64, 128)
DEPTHS = (0, 2, 3)  # transformer blocks for each level, as SDXL's 0, 2, 10
HEAD_WIDTH = 64  # ComfyUI fixes it for SDXL
CONTEXT = 48
POOLED = 16
TIME_IDS = 256
VISION = {"width": 64, "projection": 40, "layers": 3, "size": 56, "patch": 14}
PLUS = {"width": 128, "tokens": 6, "layers": 4}  # diffusers knows four layers only
BASE_TOKENS = 4


def random_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Weights of the size torch gives to new layers, so that rounding stays what it is there."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        norm = len(shape) == 1 and "norm" in name and name.endswith("weight")
        scale = 0.1 if len(shape) == 1 else (3 * max(value[0].numel(), 1)) ** -0.5
        state[name] = value * scale + (1.0 if norm else 0.0)
    return state


def build_oracle(seed: int = 0):
    """diffusers' UNet of SDXL's kind; it takes ComfyUI's vector conditioning as it is."""
    from diffusers import UNet2DConditionModel

    class Oracle(UNet2DConditionModel):
        def get_aug_embed(self, emb, encoder_hidden_states, added_cond_kwargs):
            return self.add_embedding(added_cond_kwargs["vector"])

    unet = Oracle(
        in_channels=4,
        out_channels=4,
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=CHANNELS,
        transformer_layers_per_block=tuple(max(depth, 1) for depth in DEPTHS),
        layers_per_block=2,
        attention_head_dim=tuple(max(width // HEAD_WIDTH, 1) for width in CHANNELS),
        cross_attention_dim=CONTEXT,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_IDS,
        projection_class_embeddings_input_dim=POOLED + 6 * TIME_IDS,
    )
    shapes = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    unet.load_state_dict(random_state(shapes, seed))
    return unet.eval().requires_grad_(False)


def comfy_unet_config() -> dict[str, Any]:
    deep = [DEPTHS[1]] * 2 + [DEPTHS[2]] * 2
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": CHANNELS[0],
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [width // CHANNELS[0] for width in CHANNELS],
        "transformer_depth": [0, 0, *deep],
        "transformer_depth_middle": DEPTHS[2],
        "transformer_depth_output": [0] * 3 + [DEPTHS[1]] * 3 + [DEPTHS[2]] * 3,
        "context_dim": CONTEXT,
        "num_head_channels": HEAD_WIDTH,
        "adm_in_channels": POOLED + 6 * TIME_IDS,
        "num_classes": "sequential",
        "use_linear_in_transformer": True,
        "use_spatial_transformer": True,
        "use_temporal_attention": False,
        "legacy": False,
    }


def build_comfy(oracle):
    """ComfyUI's patcher of an SDXL with the oracle's weights; every key must find its place."""
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils

    config = comfy.supported_models.SDXL(comfy_unet_config())
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({})
    weights = oracle.state_dict()
    table = comfy.utils.unet_to_diffusers(comfy_unet_config())
    state = {table[name]: weights[name] for name in table if name in weights}
    unused = set(weights) - set(table)
    assert not unused, unused
    model.diffusion_model.load_state_dict(state, strict=True)
    model.eval().requires_grad_(False)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def adapter_state(oracle, plus: bool, seed: int = 1) -> dict[str, dict[str, torch.Tensor]]:
    """A random adapter in the layout of the public files, numbered by diffusers' own order."""
    shapes = _plus_shapes() if plus else _base_shapes()
    pairs = {}
    for number, (name, _) in enumerate(oracle.attn_processors.items()):
        if ".attn2." in name:
            width = oracle.get_submodule(name.removesuffix(".processor")).inner_dim
            for kind in ("k", "v"):
                pairs[f"{number}.to_{kind}_ip.weight"] = (width, CONTEXT)
    return {"image_proj": random_state(shapes, seed), "ip_adapter": random_state(pairs, seed + 1)}


def _base_shapes() -> dict[str, tuple[int, ...]]:
    width = BASE_TOKENS * CONTEXT
    return {
        "proj.weight": (width, VISION["projection"]),
        "proj.bias": (width,),
        "norm.weight": (CONTEXT,),
        "norm.bias": (CONTEXT,),
    }


def _plus_shapes() -> dict[str, tuple[int, ...]]:
    width = PLUS["width"]
    shapes = {
        "latents": (1, PLUS["tokens"], width),
        "proj_in.weight": (width, VISION["width"]),
        "proj_in.bias": (width,),
        "proj_out.weight": (CONTEXT, width),
        "proj_out.bias": (CONTEXT,),
        "norm_out.weight": (CONTEXT,),
        "norm_out.bias": (CONTEXT,),
    }
    for i in range(PLUS["layers"]):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            shapes |= {f"layers.{i}.{norm}.{kind}": (width,) for kind in ("weight", "bias")}
        shapes |= {
            f"layers.{i}.0.to_q.weight": (width, width),
            f"layers.{i}.0.to_kv.weight": (2 * width, width),
            f"layers.{i}.0.to_out.weight": (width, width),
            f"layers.{i}.1.1.weight": (4 * width, width),
            f"layers.{i}.1.3.weight": (width, 4 * width),
        }
    return shapes


def build_vision(seed: int = 7):
    """(transformers' CLIP vision model, core's CLIP_VISION with the same weights)."""
    import comfy.clip_vision
    from comfy.cli_args import args
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes = {
        "hidden_size": VISION["width"],
        "intermediate_size": 2 * VISION["width"],
        "num_hidden_layers": VISION["layers"],
        "num_attention_heads": 2,
        "image_size": VISION["size"],
        "patch_size": VISION["patch"],
        "projection_dim": VISION["projection"],
        "num_channels": 3,
        "hidden_act": "gelu",
    }
    theirs = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes))
    shapes = {
        name: tuple(value.shape)
        for name, value in theirs.state_dict().items()
        if value.is_floating_point()
    }
    theirs.load_state_dict(random_state(shapes, seed), strict=False)
    before, args.fp32_text_enc = args.fp32_text_enc, True
    core = comfy.clip_vision.ClipVisionModel({**sizes, "model_type": "clip_vision_model"})
    args.fp32_text_enc = before
    missing, unexpected = core.load_sd(theirs.state_dict())
    assert not missing, missing
    assert all(name.endswith("position_ids") for name in unexpected), unexpected
    return theirs.eval().requires_grad_(False), core


def conditioning(seed: int, tokens: int = 9) -> list:
    """One CONDITIONING value with random text."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens, CONTEXT, generator=generator)
    pooled = torch.randn(1, POOLED, generator=generator)
    return [[text, {"pooled_output": pooled}]]


def pictures(count: int, seed: int, size: int = VISION["size"]) -> torch.Tensor:
    """(count, size, size, 3) in whole 8-bit steps, so nobody's rounding matters."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), generator=generator).float() / 255


@dataclass(frozen=True)
class UNetCall:
    """One call of ComfyUI's UNet while sampling: inputs, who was asked, output."""

    x: torch.Tensor
    timesteps: torch.Tensor
    context: torch.Tensor
    vector: torch.Tensor
    cond_or_uncond: tuple[int, ...]
    uuids: tuple
    output: torch.Tensor


@dataclass
class Tiny:
    """Both models and their parts."""

    oracle: Any
    model: Any
    adapters: dict[str, dict]
    vision_oracle: Any
    vision: Any
    runtime: SimpleNamespace

    def fresh_oracle(self):
        return copy.deepcopy(self.oracle)


def sample(model, guider=None, *, latent=None, frames=1, steps=2, cfg=3.0, seed=0, size=(16, 16)):
    """Run ComfyUI's own sampling; returns (result, every call of the UNet)."""
    import comfy.sample
    import comfy.samplers

    if guider is None:
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(conditioning(11), conditioning(12))
        guider.set_cfg(cfg)
    latent = torch.zeros(frames, 4, *size) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    calls: list[UNetCall] = []

    def record(_module, args, kwargs, output):
        options = kwargs["transformer_options"]
        calls.append(
            UNetCall(
                args[0].clone(),
                args[1].clone(),
                kwargs["context"].clone(),
                kwargs["y"].clone(),
                tuple(options["cond_or_uncond"]),
                tuple(options["uuids"]),
                output.clone(),
            )
        )

    handle = model.model.diffusion_model.register_forward_hook(record, with_kwargs=True)
    try:
        with torch.inference_mode():
            sampler = comfy.samplers.sampler_object("euler")
            result = guider.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=seed)
    finally:
        handle.remove()
    return result, calls
