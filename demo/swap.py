"""Runs the shipped workflows with the miniature model: only the model file names are swapped."""

import copy
from typing import Any

# file named in the workflows -> file of the miniature
NANO = {
    "sd_xl_base_1.0.safetensors": "nano_sdxl.safetensors",
    "controlnet-openpose-sdxl-1.0.safetensors": "nano_openpose.safetensors",
    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors": "nano_clip_vision.safetensors",
    "ip-adapter-plus_sdxl_vit-h.safetensors": "nano_ip_adapter_plus.safetensors",
}


def with_nano(prompt: dict[str, Any]) -> dict[str, Any]:
    """A copy of an API-format workflow with the model files of the miniature."""
    swapped = copy.deepcopy(prompt)
    for node in swapped.values():
        for name, value in node["inputs"].items():
            if isinstance(value, str):
                node["inputs"][name] = NANO.get(value, value)
    return swapped
