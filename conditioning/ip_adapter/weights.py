"""IP-Adapter files: two containers, three layouts, told apart by keys and shapes, never by name.

A file holds an image projector (`image_proj.*`) and one pair of projections for each text cross
attention of the UNet (`ip_adapter.N.to_k_ip.weight`, `to_v_ip`, N odd). `.safetensors` files are
flat, `.bin` files nest the two parts; training checkpoints use other prefixes for the same parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import IPAdapterError

# Prefix in a flat file -> part. The second pair is what training scripts save.
PREFIXES = {
    "image_proj.": "image_proj",
    "ip_adapter.": "ip_adapter",
    "image_proj_model.": "image_proj",
    "adapter_modules.": "ip_adapter",
}

POOLED = "image_embeds"
SEQUENCE = "penultimate_hidden_states"

# (which output of the encoder, its width) -> the encoder that makes it.
ENCODERS = {
    (POOLED, 1024): "CLIP-ViT-H-14",
    (POOLED, 1280): "CLIP-ViT-bigG-14",
    (POOLED, 768): "CLIP-ViT-L-14",
    (SEQUENCE, 1280): "CLIP-ViT-H-14",
    (SEQUENCE, 1664): "CLIP-ViT-bigG-14",
    (SEQUENCE, 1024): "CLIP-ViT-L-14",
}

FACE_EMBEDDING_WIDTH = 512  # what insightface gives; no CLIP encoder has this width


@dataclass(frozen=True)
class AdapterSpec:
    """What an adapter is, read off its tensors.

    Attributes:
        kind: "base", "plus" or "full".
        tokens: attention tokens for one picture; 0 means as many as the encoder gives.
        feature: which output of the image encoder it reads, `POOLED` or `SEQUENCE`.
        feature_dim: width of that output.
        context_dim: width of the UNet's text context (2048 for SDXL, 768 for SD 1.5).
        channels: width of each cross attention, in the file's order.
        name: the file's name for messages, may be empty.
    """

    kind: str
    tokens: int
    feature: str
    feature_dim: int
    context_dim: int
    channels: tuple[int, ...]
    name: str = ""

    @property
    def label(self) -> str:
        return repr(self.name) if self.name else "This IP-Adapter"

    @property
    def encoder(self) -> str:
        return encoder_name(self.feature, self.feature_dim)


def encoder_name(feature: str, width: int) -> str:
    """The usual name of the image encoder whose output `feature` has this width."""
    return ENCODERS.get((feature, width), f"an image encoder of width {width}")


def read_adapter(path: str | Path) -> dict[str, dict[str, torch.Tensor]]:
    """The two parts of an adapter file: {"image_proj": {...}, "ip_adapter": {...}}.

    `.bin` files are read without running any code in them.

    Raises:
        IPAdapterError: the file cannot be read, or holds no IP-Adapter.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in (".safetensors", ".sft"):
            from safetensors.torch import load_file

            state = load_file(path, device="cpu")
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or hostile file makes the reader raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise IPAdapterError(
            f"{path.name!r} cannot be read as model weights ({reason}): download the file again."
        ) from error
    if not isinstance(state, Mapping):
        raise IPAdapterError(f"{path.name!r} holds no IP-Adapter: choose an ip-adapter file.")
    return split_adapter(state, path.name)


def split_adapter(state: Mapping, name: str = "") -> dict[str, dict[str, torch.Tensor]]:
    """Sort a flat or nested state dict into its two parts, prefixes removed.

    Raises:
        IPAdapterError: one of the parts is missing.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in state.items():
        if key in parts and isinstance(value, Mapping):
            parts[key].update(value)
            continue
        for prefix, part in PREFIXES.items():
            if key.startswith(prefix):
                parts[part][key[len(prefix) :]] = value
    empty = [part for part, tensors in parts.items() if not tensors]
    if empty:
        label = repr(name) if name else "This file"
        raise IPAdapterError(
            f"{label} holds no IP-Adapter ('{empty[0]}' is missing): choose a file such as "
            "ip-adapter-plus_sdxl_vit-h.safetensors."
        )
    return parts


def layer_pairs(ip_adapter: Mapping[str, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(to_k, to_v) weights (C, context_dim) in the order of the numbers in their keys.

    Raises:
        IPAdapterError: a number has only one of the two.
    """
    numbers = sorted({int(key.split(".")[0]) for key in ip_adapter if key.split(".")[0].isdigit()})
    pairs = []
    for number in numbers:
        pair = tuple(ip_adapter.get(f"{number}.{kind}_ip.weight") for kind in ("to_k", "to_v"))
        if pair == (None, None):
            continue
        if any(not isinstance(weight, torch.Tensor) or weight.ndim != 2 for weight in pair):
            raise IPAdapterError(
                f"The IP-Adapter is damaged: layer {number} lacks to_k_ip or to_v_ip. "
                "Download the file again."
            )
        pairs.append(pair)
    return pairs


def _projector_shape(proj: Mapping[str, torch.Tensor]) -> tuple[str, int, str, int, int]:
    """(kind, tokens, feature, feature_dim, context_dim) of a projector's state dict."""
    if "proj.weight" in proj:
        context = proj["norm.weight"].shape[0]
        out, width = proj["proj.weight"].shape
        return "base", out // context, POOLED, width, context
    if "latents" in proj:
        tokens = proj["latents"].shape[1]
        width, context = proj["proj_in.weight"].shape[1], proj["proj_out.weight"].shape[0]
        return "plus", tokens, SEQUENCE, width, context
    if "proj.3.weight" in proj:
        width, context = proj["proj.0.weight"].shape[1], proj["proj.3.weight"].shape[0]
        return "full", 0, SEQUENCE, width, context
    raise KeyError("image_proj")


def _is_face_id(adapter: Mapping[str, Mapping]) -> bool:
    proj = adapter["image_proj"]
    if any("_lora." in key for key in adapter["ip_adapter"]):
        return True
    if any(key.startswith("perceiver_resampler.") for key in proj):
        return True
    if "proj.0.weight" in proj and "proj.3.weight" not in proj:
        return True
    entry = proj.get("proj_in.weight", proj.get("proj.weight"))
    return entry is not None and entry.shape[1] == FACE_EMBEDDING_WIDTH


def adapter_parts(value: Mapping) -> Mapping[str, Mapping]:
    """The two parts of an adapter in an IPADAPTER value, ours or another pack's.

    IPAdapter Plus' Unified Loader gives its whole pipeline: {"ipadapter": {"model": the parts},
    "clipvision": {"model": ...}, "insightface": ...}.

    Raises:
        IPAdapterError: the value holds no adapter.
    """
    if isinstance(value, Mapping) and isinstance(value.get("ipadapter"), Mapping):
        value = value["ipadapter"].get("model")
    if not isinstance(value, Mapping) or not {"image_proj", "ip_adapter"} <= set(value):
        raise IPAdapterError("The IPADAPTER input holds no adapter: connect Load IP-Adapter.")
    return value


def inspect_adapter(adapter: Mapping[str, Mapping], name: str = "") -> AdapterSpec:
    """Read kind, encoder and layer shapes off an adapter's tensors.

    Raises:
        IPAdapterError: the layout is FaceID (not supported yet), unknown, or incomplete.
    """
    label = repr(name) if name else "This IP-Adapter"
    adapter = adapter_parts(adapter)
    if _is_face_id(adapter):
        raise IPAdapterError(
            f"{label} is a FaceID adapter, which reads face embeddings of insightface; that is not "
            "supported yet. Use ip-adapter-plus-face_sdxl_vit-h.safetensors for faces."
        )
    try:
        kind, tokens, feature, width, context = _projector_shape(adapter["image_proj"])
    except KeyError as error:
        raise IPAdapterError(
            f"{label} has an image projector of an unknown layout ({error.args[0]} not found): "
            "use an IP-Adapter base, plus, plus-face or full-face file."
        ) from error
    pairs = layer_pairs(adapter["ip_adapter"])
    if not pairs or any(weight.shape[1] != context for pair in pairs for weight in pair):
        raise IPAdapterError(
            f"{label} is damaged: its layers do not read the {context} values its projector gives. "
            "Download the file again."
        )
    channels = tuple(to_k.shape[0] for to_k, _ in pairs)
    return AdapterSpec(kind, tokens, feature, width, context, channels, name)
