"""Lets ComfyUI's own loaders read nano's files. A node folder without nodes, for demo and tests.

The nodes of the pack need none of it: Load Miniature makes its models known itself, when it runs.
"""

import importlib.util
from pathlib import Path

import comfy.clip_vision
from comfy_api.v0_0_2 import ComfyExtension

_SOURCE = Path(__file__).resolve().parents[2] / "nodes" / "runtime" / "small_models.py"
_spec = importlib.util.spec_from_file_location("troupe_small_models", _SOURCE)
_small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_small)


def _load_vision(state_dict, prefix="", convert_keys=False):
    """Core's loader, then nano's sizes where core knows no config for the weights."""
    found = _core_load_vision(state_dict, prefix, convert_keys)
    if found is not None or "visual_projection.weight" not in state_dict:
        return found
    return _small.load_small_vision(state_dict)


_core_load_vision = comfy.clip_vision.load_clipvision_from_sd
comfy.clip_vision.load_clipvision_from_sd = _load_vision
_small.know_small_sdxl()


class Companion(ComfyExtension):
    async def get_node_list(self):
        return []


async def comfy_entrypoint() -> Companion:
    return Companion()
