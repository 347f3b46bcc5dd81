"""Lets ComfyUI's own loaders read nano's files. A node folder without nodes, for demo and tests.

ComfyUI knows a checkpoint by exact numbers of published models. This folder adds one more entry to
its list: any SDXL-shaped UNet smaller than the published ones, its text encoders' sizes read from
the weights. CLIP vision encoders get the same treatment. ControlNets in cldm layout need nothing.
"""

import re

import comfy.clip_vision
import comfy.supported_models
import comfy.supported_models_base
from comfy import sdxl_clip
from comfy_api.v0_0_2 import ComfyExtension

HEAD_DIM = 64  # everywhere in nano: heads = hidden size / 64
TEXT_L = "conditioner.embedders.0.transformer.text_model."
TEXT_G = "conditioner.embedders.1.model."


class NanoSDXL(comfy.supported_models.SDXL):
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

        class NanoClipModel(sdxl_clip.SDXLClipModel):
            def __init__(self, device="cpu", dtype=None, model_options=None):
                sizes = {"clip_l_model_config": text_l, "clip_g_model_config": text_g}
                options = {**(model_options or {}), **sizes}
                super().__init__(device=device, dtype=dtype, model_options=options)

        return comfy.supported_models_base.ClipTarget(sdxl_clip.SDXLTokenizer, NanoClipModel)


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


def _load_vision(state_dict, prefix="", convert_keys=False):
    """Core's loader, then nano's sizes where core knows no config for the weights."""
    found = _core_load_vision(state_dict, prefix, convert_keys)
    if found is not None or "visual_projection.weight" not in state_dict:
        return found
    encoder = comfy.clip_vision.ClipVisionModel(_vision_config(state_dict))
    missing, _ = encoder.load_sd(state_dict)
    if missing:
        raise ValueError(f"The CLIP vision file lacks {missing}.")
    return encoder


_core_load_vision = comfy.clip_vision.load_clipvision_from_sd
comfy.clip_vision.load_clipvision_from_sd = _load_vision
comfy.supported_models.models.append(NanoSDXL)


class Companion(ComfyExtension):
    async def get_node_list(self):
        return []


async def comfy_entrypoint() -> Companion:
    return Companion()
