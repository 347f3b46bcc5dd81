"""Patches a ComfyUI model so that reference pictures speak in its text cross attention."""

from collections.abc import Mapping


def apply_reference(
    model,
    ipadapter: dict,
    clip_vision,
    images,
    *,
    weight: float = 1.0,
    layer_weights: Mapping[int, float] | None = None,
    mask=None,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    combine: str = "concat",
    per_frame: bool = False,
    negative="zeros",
    embeds=None,
):
    """A clone of `model` that also attends to `images` (R, H, W, 3), values 0..1."""
    raise NotImplementedError
