"""Every random number of a run follows from (seed, purpose, place), never from what came before.

So a resumed run needs no generator state, previews cannot disturb training, and the numbers are
the same on every device, because they are drawn on the CPU.
"""

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the parts, for example (job seed, "noise", step)."""
    text = "\0".join(str(p) for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded with `derive_seed(*parts)`."""
    return torch.Generator("cpu").manual_seed(derive_seed(*parts))
