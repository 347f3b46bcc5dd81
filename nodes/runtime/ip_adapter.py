"""Patches a ComfyUI model so that reference pictures speak in its text cross attention.

`apply_reference` is the way in. The adapter's weights live in a model patcher, so ComfyUI's memory
management sees, moves and evicts them like any other model; what happens while sampling is in
`reference_stack` (each attention layer) and `reference_run` (each run).
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch

from ...conditioning.ip_adapter import (
    COMBINES,
    NEGATIVES,
    AttentionLayer,
    IPAdapterError,
    ReferenceEmbeds,
    adapter_parts,
    attention_layers,
    build_adapter,
    check_features,
    check_fit,
    check_images,
    check_mask,
    inspect_adapter,
    pad_to_square,
    project_tokens,
)
from ...conditioning.ip_adapter.weights import POOLED, AdapterSpec
from .reference_run import BoundReference, sigma_range
from .reference_stack import add_reference, stacks_of


class AdapterWeights:
    """An adapter as ComfyUI's memory management sees it: a module in a model patcher."""

    def __init__(self, adapter: Mapping[str, Mapping], name: str = ""):
        self.source = adapter["ip_adapter"]
        self.spec = inspect_adapter(adapter, name)
        self.module = build_adapter(adapter, self.spec, comfy.ops.manual_cast)
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            self.module,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )

    def load(self) -> None:
        comfy.model_management.load_models_gpu([self.patcher])


class LoadedAdapter(dict):
    """What Load IP-Adapter gives: the two parts as other packs know them, and the file's name.

    The module made of the parts is kept with them, so any number of references share it.
    """

    def __init__(self, parts: Mapping[str, Mapping], name: str = ""):
        super().__init__(parts)
        self.name = name
        self.weights: AdapterWeights | None = None


def weights_of(ipadapter: Mapping, model=None) -> AdapterWeights:
    """The weights of an IPADAPTER value of ours or of another pack.

    Raises:
        IPAdapterError: it holds no adapter that we can use.
    """
    if isinstance(ipadapter, LoadedAdapter):
        if ipadapter.weights is None:
            ipadapter.weights = AdapterWeights(ipadapter, ipadapter.name)
        return ipadapter.weights
    parts = adapter_parts(ipadapter)
    inspect_adapter(parts)
    for stack in stacks_of(model) if model is not None else ():
        for reference in stack.references:
            if reference.weights.source is parts["ip_adapter"]:
                return reference.weights
    return AdapterWeights(parts)


def vision_in(ipadapter) -> object | None:
    """The image encoder that came along in an IPADAPTER value of a unified loader, if any."""
    held = ipadapter.get("clipvision") if isinstance(ipadapter, Mapping) else None
    return held.get("model") if isinstance(held, Mapping) else None


def encode_reference(
    ipadapter: Mapping, clip_vision, images: torch.Tensor, negative="zeros"
) -> ReferenceEmbeds:
    """Let the image encoder look at reference pictures, and at their absence.

    Args:
        images: (R, H, W, 3), 0..1; pictures that are not square are padded, not cropped.
        negative: "zeros" (as adapters were trained), "black", or pictures (K, H, W, 3) of what
            to avoid.

    Raises:
        IPAdapterError: the pictures or the encoder do not fit the adapter.
    """
    return _encode(weights_of(ipadapter).spec, clip_vision, images, negative)


def apply_reference(
    model,
    ipadapter: Mapping,
    clip_vision,
    images: torch.Tensor | None,
    *,
    weight: float = 1.0,
    layer_weights: Mapping[int, float] | None = None,
    mask: torch.Tensor | None = None,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    combine: str = "concat",
    per_frame: bool = False,
    negative="zeros",
    embeds: ReferenceEmbeds | None = None,
    canvas_hw: tuple[int, int] | None = None,
):
    """A clone of `model` that also attends to reference pictures.

    Args:
        model: ComfyUI ModelPatcher of an SDXL or SD 1.5 UNet; it is not changed.
        ipadapter: {"image_proj": ..., "ip_adapter": ...}, ours or another pack's, or the
            pipeline of a unified loader that holds them.
        clip_vision: core's CLIP_VISION.
        images: (R, H, W, 3), 0..1; not needed with `embeds`.
        weight: strength; 0 adds no patch at all.
        layer_weights: transformer_index (order of execution; SDXL 0..10) -> factor on `weight`,
            0 where missing. None or empty: 1 everywhere.
        mask: (N or 1, H, W), 0..1, over the whole picture at any size; N = number of latents.
        start_percent, end_percent: part of the sampling steps, both ends included.
        combine: "concat" (tokens of all pictures) or "average" (one blended picture).
        per_frame: picture i is for latent i only.
        negative: see `encode_reference`.
        embeds: result of `encode_reference`, instead of encoding `images` again.
        canvas_hw: size of the scene in latents that `mask` is drawn on; latents of another shape
            are refused then. None stretches the mask over what is sampled.

    Raises:
        IPAdapterError: adapter, encoder, model, pictures or options do not fit; says how.
    """
    weight = _check_options(weight, start_percent, end_percent, combine, negative)
    weights = weights_of(ipadapter, model)
    layers = attention_layers(model.get_model_object("diffusion_model"))
    check_fit(weights.spec, layers)
    strengths = _strengths(layers, weight, layer_weights)
    mask = None if mask is None else check_mask(mask)
    if not strengths or (mask is not None and float(mask.max()) <= 0.0):
        return model.clone()
    if embeds is None:
        embeds = _encode(weights.spec, clip_vision, images, negative)
    check_features(
        embeds.features if embeds.feature == weights.spec.feature else None, weights.spec
    )
    tokens = _tokens(weights, embeds, combine, per_frame)
    percents = (float(start_percent), float(end_percent))
    reference = BoundReference(
        weights=weights,
        tokens=tokens,
        layer_weights=MappingProxyType(strengths),
        mask=None if mask is None or float(mask.min()) >= 1.0 else mask,
        percents=percents,
        sigmas=sigma_range(model.get_model_object("model_sampling"), percents),
        per_frame=tokens.frames > 1,
        canvas_hw=canvas_hw,
    )
    return add_reference(model, reference, layers)


def _check_options(weight, start, end, combine, negative) -> float:
    if not math.isfinite(weight):
        raise IPAdapterError(f"The reference's weight is {weight}: give a number such as 0.8.")
    if not 0.0 <= start <= end <= 1.0:
        raise IPAdapterError(
            f"start_percent {start} and end_percent {end} must be between 0 and 1, start first."
        )
    if combine not in COMBINES:
        raise IPAdapterError(
            f"combine {combine!r} is unknown: choose one of {', '.join(COMBINES)}."
        )
    if isinstance(negative, str) and negative not in NEGATIVES:
        raise IPAdapterError(
            f"negative {negative!r} is unknown: choose one of {', '.join(NEGATIVES)}, or pictures."
        )
    return float(weight)


def _strengths(
    layers: tuple[AttentionLayer, ...], weight: float, factors: Mapping[int, float] | None
) -> dict[int, float]:
    strengths = {
        layer.index: weight * (factors.get(layer.transformer_index, 0.0) if factors else 1.0)
        for layer in layers
    }
    return {index: strength for index, strength in strengths.items() if strength != 0.0}


def _encode(spec: AdapterSpec, clip_vision, images, negative) -> ReferenceEmbeds:
    images = check_images(images)
    features = _look(clip_vision, images, spec)
    check_features(features, spec)
    if isinstance(negative, torch.Tensor):
        unwanted = _look(clip_vision, check_images(negative, "negative pictures"), spec)
        absent = unwanted.mean(dim=0, keepdim=True)
    elif negative == "black":
        absent = _look(clip_vision, torch.zeros_like(images[:1]), spec)
    elif spec.feature == POOLED:
        absent = torch.zeros_like(features[:1])
    else:
        absent = _look_at_zeros(clip_vision, spec)
    return ReferenceEmbeds(features, absent, spec.feature)


def _look(clip_vision, images: torch.Tensor, spec: AdapterSpec) -> torch.Tensor | None:
    """The encoder's output that `spec` reads, (R, E) or (R, S, E), or None if it has none."""
    colour = tuple(getattr(clip_vision, "image_mean", (0.5, 0.5, 0.5)))
    seen = clip_vision.encode_image(pad_to_square(images, colour))
    return getattr(seen, spec.feature, None)


def _look_at_zeros(clip_vision, spec: AdapterSpec) -> torch.Tensor:
    """The encoder's sequence for zeros in normalised pixels.

    `encode_image` cannot say this: it rounds to 8 bit before it normalises.
    """
    comfy.model_management.load_model_gpu(clip_vision.patcher)
    size = clip_vision.image_size
    pixels = torch.zeros(1, 3, size, size, device=clip_vision.load_device)
    states = clip_vision.model(pixel_values=pixels, intermediate_output=-2)[1]
    return states.to(comfy.model_management.intermediate_device())


def _tokens(weights: AdapterWeights, embeds: ReferenceEmbeds, combine: str, per_frame: bool):
    weights.load()
    device = weights.patcher.load_device
    ready = ReferenceEmbeds(
        embeds.features.to(device, torch.float32),
        embeds.negative.to(device, torch.float32),
        embeds.feature,
    )
    tokens = project_tokens(weights.module, ready, combine=combine, per_frame=per_frame)
    return tokens.to(comfy.model_management.intermediate_device())
