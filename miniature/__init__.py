"""A miniature of SDXL's family, 29 MB: for a whole film on any machine, with nothing to download.

It knows one drawn world of 128 pixels and is in exactly the formats of the real models. `weights/`
holds what was learned, in a small form (`packs`). `modules` says what the networks are, `widen`
makes the small forms whole again, `complete` gives them the names that the real files have. How it
was trained: demo/README.md.

Nothing here knows ComfyUI; `keys`, which callers hand over, is the module training.keys.
"""

from .complete import (
    SHIPPED,
    checkpoint_state,
    controlnet_state,
    miniature_files,
    save_model,
    shipped_parts,
    write_checkpoint,
)
from .packs import PackError, version

__all__ = [
    "SHIPPED",
    "PackError",
    "checkpoint_state",
    "controlnet_state",
    "miniature_files",
    "save_model",
    "shipped_parts",
    "version",
    "write_checkpoint",
]
