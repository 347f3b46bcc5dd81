"""Names that ComfyUI's loader reads, for files of diffusers and PEFT.

ComfyUI knows diffusers' UNet names with underscores, whatever the size of the UNet, but not the
dotted ones that `save_lora_weights` writes for attention layers.
"""

from collections.abc import Container, Mapping

import torch

from .lora_names import KOHYA_UNET, TEXT_ENCODERS
from .lorafile import alpha_from_metadata
from .parts import DOWN, split_key

_UNET_PREFIXES = ("unet.base_model.model.", "base_model.model.", "unet.", "")


def with_comfy_names(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None, known: Container[str]
) -> dict[str, torch.Tensor]:
    """A file's tensors with every layer renamed that the loader would not find otherwise.

    Args:
        metadata: of the file; alphas that diffusers notes there become tensors.
        known: stems the loader knows for this model.
    """
    out = {}
    for key, tensor in tensors.items():
        stem, part = split_key(key)
        found = stem if stem in known else _known_stem(stem, known)
        if not part or found is None:
            out[key] = tensor
            continue
        out[key if found == stem else f"{found}.{part}"] = tensor
        if part == DOWN and metadata and f"{stem}.alpha" not in tensors:
            model = stem.partition(".")[0]
            model = model if model in TEXT_ENCODERS else "unet"
            alpha = alpha_from_metadata(metadata, model, stem, len(tensor))
            if alpha is not None:
                out[f"{found}.alpha"] = torch.tensor(alpha)
    return out


def _known_stem(stem: str, known: Container[str]) -> str | None:
    for model in TEXT_ENCODERS:
        inner = stem.removeprefix(f"{model}.")
        if inner != stem:
            named = f"{model}.text_model.{inner}"  # transformers 5 leaves a part out
            return named if named in known else None
    for prefix in _UNET_PREFIXES:
        flat = KOHYA_UNET + stem.removeprefix(prefix).replace(".", "_")
        if stem.startswith(prefix) and flat in known:
            return flat
    return None
