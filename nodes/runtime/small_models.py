"""Models of SDXL's family that are smaller than any published one, as the miniature is.

ComfyUI knows a checkpoint by the exact numbers of published models. `know_small_sdxl` adds one more
entry at the end of its list, for UNets of SDXL's structure that are smaller than all of these; the
sizes of the text encoders are read from the weights. No published model is meant by it. ControlNets
in cldm layout need nothing of the kind.

No relative imports: demo/companion reads this file by its path.
"""

import re
from typing import Any

import comfy.clip_vision
import comfy.supported_models
import comfy.supported_models_base
from comfy import sdxl_clip

HEAD_DIM = 64  # everywhere: heads = hidden size / 64
TEXT_L = "conditioner.embedders.0.transformer.text_model."
TEXT_G = "conditioner.embedders.1.model."


class SmallSDXL(comfy.supported_models.SDXL):
    """SDXL's structure with smaller numbers."""

    @classmethod
    def matches(cls, unet_config, state_dict=None, unet_key_prefix=""):
        return (
            unet_config.get("use_linear_in_transformer", False)
            and not unet_config.get("use_temporal_attention", False)
            and 0 < (unet_config.get("adm_in_channels") or 0) < 2048
            and unet_config.get("model_channels", 320) < 320
            and (unet_config.get("context_dim") or 768) < 768
        )

    def clip_target(self, state_dict={}):  # noqa: B006 - ComfyUI's signature; never changed here
        text_l = _text_config(
            state_dict[f"{TEXT_L}embeddings.position_embedding.weight"],
            state_dict[f"{TEXT_L}encoder.layers.0.mlp.fc1.weight"],
            _count(state_dict, rf"{re.escape(TEXT_L)}encoder\.layers\.(\d+)\."),
        )
        text_g = _text_config(
            state_dict[f"{TEXT_G}positional_embedding"],
            state_dict[f"{TEXT_G}transformer.resblocks.0.mlp.c_fc.weight"],
            _count(state_dict, rf"{re.escape(TEXT_G)}transformer\.resblocks\.(\d+)\."),
        )

        class SmallClipModel(sdxl_clip.SDXLClipModel):
            def __init__(self, device="cpu", dtype=None, model_options=None):
                sizes = {"clip_l_model_config": text_l, "clip_g_model_config": text_g}
                options = {**(model_options or {}), **sizes}
                super().__init__(device=device, dtype=dtype, model_options=options)

        return comfy.supported_models_base.ClipTarget(sdxl_clip.SDXLTokenizer, SmallClipModel)


def _text_config(positions, first_mlp, layers: int) -> dict:
    """What differs from ComfyUI's own config; tensors (positions, hidden) and (mlp, hidden)."""
    hidden = positions.shape[1]
    return {
        "hidden_size": hidden,
        "projection_dim": hidden,
        "num_attention_heads": hidden // HEAD_DIM,
        "intermediate_size": first_mlp.shape[0],
        "num_hidden_layers": layers,
        "max_position_embeddings": positions.shape[0],
    }


def _count(state_dict, pattern: str) -> int:
    numbers = [int(m.group(1)) for m in map(re.compile(pattern).match, state_dict) if m]
    return max(numbers) + 1


def _vision_config(state_dict) -> dict:
    patches = state_dict["vision_model.embeddings.patch_embedding.weight"]
    positions = state_dict["vision_model.embeddings.position_embedding.weight"]
    hidden, channels, patch, _ = patches.shape
    return {
        "model_type": "clip_vision_model",
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "image_size": patch * round((positions.shape[0] - 1) ** 0.5),
        "intermediate_size": state_dict["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_attention_heads": hidden // HEAD_DIM,
        "num_channels": channels,
        "num_hidden_layers": _count(state_dict, r"vision_model\.encoder\.layers\.(\d+)\."),
        "patch_size": patch,
        "projection_dim": state_dict["visual_projection.weight"].shape[0],
    }


def know_small_sdxl() -> None:
    """Let ComfyUI's own loader read small checkpoints; once is enough."""
    known = comfy.supported_models.models
    if not any(entry.__name__ == SmallSDXL.__name__ for entry in known):
        known.append(SmallSDXL)


def load_small_vision(state_dict: dict[str, Any]) -> comfy.clip_vision.ClipVisionModel:
    """A CLIP image encoder in transformers' names, its sizes read from the weights.

    Raises:
        ValueError: weights are missing.
    """
    encoder = comfy.clip_vision.ClipVisionModel(_vision_config(state_dict))
    missing, _ = encoder.load_sd(state_dict)
    if missing:
        raise ValueError(f"The CLIP vision file lacks {missing}.")
    return encoder
