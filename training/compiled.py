"""torch.compile for the blocks of a UNet, one by one: SDXL has few kinds of blocks, many times.

Regional compilation, as diffusers' `compile_repeated_blocks` does it, for resnets as well: each
kind of block is compiled once for each width, and once more when a second size of pictures shows
up, with open sizes from then on. Checkpointing, adapters, hooks on gradients and saved states see
the modules they always saw. Numbers differ from uncompiled ones in their last bits.
"""

import sys

import torch

from .errors import JobError

MODES = ("off", "blocks")
BACKEND = "inductor"
VARIANTS = 64  # of one block: widths, ranks, sizes, with and without gradients or adapter


def compile_blocks(unet: torch.nn.Module, backend: str = BACKEND) -> int:
    """Compile every transformer block and resnet of a UNet when it first runs; returns how many.

    Weights of streamed blocks come and go outside of what is compiled.
    """
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    config = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # 2.5
    setattr(config, limit, max(getattr(config, limit), VARIANTS))
    count = 0
    for module in unet.modules():
        if isinstance(module, BasicTransformerBlock | ResnetBlock2D):
            module.compile(backend=backend)
            count += 1
    return count


def check_compiler(device: torch.device) -> None:
    """Compile a line of arithmetic with its gradient, as training would.

    Raises:
        JobError: this machine cannot; says why and what to do.
    """
    x = torch.ones(32, device=device, requires_grad=True)
    try:
        torch.compile(_probe, backend=BACKEND)(x).backward()
    except Exception as error:  # each backend has exceptions of its own
        raise JobError(
            f"Setting 'memory.compile': torch cannot compile on this machine ({_reason(error)}): "
            f"{_remedy(device)}, or choose off."
        ) from None
    finally:
        torch._dynamo.reset()


def _probe(x: torch.Tensor) -> torch.Tensor:
    return (torch.nn.functional.silu(x) * 3.0).sum()


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).strip().splitlines() or [""])[0].strip().rstrip(".:")
    return f"{type(error).__name__}: {line[:160]}" if line else type(error).__name__


def _remedy(device: torch.device) -> str:
    if device.type == "cpu":
        return "install a C++ compiler (g++, clang++, or Visual Studio's on Windows)"
    package = "triton-windows" if sys.platform == "win32" else "triton"
    return f"install a C compiler and pip install {package} in ComfyUI's Python"
