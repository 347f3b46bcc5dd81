"""The tiny SDXL in diffusers and in ComfyUI, made once for all parity tests."""

import importlib

import pytest
import torch

from tests.parity import tiny


@pytest.fixture(scope="session")
def tiny_sdxl(comfy, pack):
    torch.manual_seed(0)
    oracle = tiny.build_oracle()
    vision_oracle, vision = tiny.build_vision()
    runtime = importlib.import_module(f"{pack.__name__}.nodes.runtime.ip_adapter")
    return tiny.Tiny(
        oracle=oracle,
        model=tiny.build_comfy(oracle),
        adapters={
            "base": tiny.adapter_state(oracle, plus=False),
            "plus": tiny.adapter_state(oracle, plus=True),
        },
        vision_oracle=vision_oracle,
        vision=vision,
        runtime=runtime,
    )
