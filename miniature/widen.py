"""Small forms made whole: channels and tokens that the miniature does without, put back.

What is put back is zero (channels, blocks) or one and the same row (tokens), so nothing that is
computed changes: a channel of zeros stays zero through ReLU and SiLU, and a block of zeros hands on
its input, which is never negative in TAESD.
"""

from collections.abc import Mapping, Sequence

import torch

from .modules import VOCABULARY

State = dict[str, torch.Tensor]
# TAESD with (channels, blocks) per level, coarse to fine; its own are 64 and (3, 3, 3, 1).
DECODER = ((64, 3), (64, 3), (32, 2), (24, 1))
ENCODER = ((16, 1), (32, 2), (64, 2), (64, 3))
TAESD_BLOCKS = 3
HINT_CHANNELS = (8, 16, 32, 64)  # of the ControlNet's picture encoder
_HINT = "controlnet_cond_embedding."


def widen_vae(narrow: State, full: Mapping[str, torch.Tensor]) -> State:
    """The state of diffusers' AutoencoderTiny (shapes as in `full`) that computes the same.

    Raises:
        ValueError: a layer of `narrow` has no place in `full`.
    """
    wide = {name: torch.zeros(value.shape) for name, value in full.items()}
    for part, levels in (("encoder", ENCODER), ("decoder", DECODER)):
        places = _places(part, levels)
        for name, value in narrow.items():
            if not name.startswith(f"{part}."):
                continue
            _, index, rest = name.split(".", 2)
            target = f"{part}.layers.{places[int(index)]}.{rest}"
            if target not in wide:
                raise ValueError(f"{name} has no place in TAESD ({target})")
            wide[target][tuple(slice(0, n) for n in value.shape)] = value
    return wide


def widen_controlnet(narrow: State, full: Mapping[str, torch.Tensor]) -> State:
    """The state of the full-sized ControlNet (shapes as in `full`) that computes the same."""
    wide = dict(narrow)
    for name, target in full.items():
        if name.startswith(_HINT):
            value = narrow[name]
            wide[name] = torch.zeros(target.shape, dtype=value.dtype)
            wide[name][tuple(slice(0, n) for n in value.shape)] = value
    return wide


def expand(small: torch.Tensor, used: Sequence[int]) -> torch.Tensor:
    """The full token table (49408, width) from one row for all others and one for each used."""
    full = small[:1].expand(VOCABULARY, -1).clone()
    full[list(used)] = small[1:]
    return full


def shrink(full: torch.Tensor, used: Sequence[int]) -> torch.Tensor:
    """The small table from a full one; the inverse of `expand`."""
    other = next(i for i in range(VOCABULARY) if i not in set(used))
    return torch.cat([full[other : other + 1], full[list(used)]])


def _places(part: str, levels) -> list[int]:
    """For every layer of the narrow network its number in diffusers' TAESD."""
    places, full = [], 0
    full_blocks = (1, 3, 3, 3) if part == "encoder" else (3, 3, 3, 1)
    if part == "decoder":  # convolution and ReLU come first
        places, full = [0, 1], 2
    for (_, blocks), most in zip(levels, full_blocks, strict=True):
        if part == "encoder":
            places.append(full)
            full += 1
        places += range(full, full + blocks)
        full += most
        if part == "decoder" and most == TAESD_BLOCKS:
            places += [full, full + 1]  # upsampling, convolution
            full += 2
    return [*places, full]
