"""Which frames and which part of the canvas a model sees: decided here, for references and control.

A scene is N frames on one canvas. What the model is handed may be less: some frames (context
windows of core or of AnimateDiff-Evolved), the area of a prompt, or a crop that another pack made.
Each conditioning of a batch gets a `View` that says so; whoever has something for each frame and
place takes `rows_for` the frames and the `part` of the picture from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ...conditioning import LATENT_PX, SceneError

Size = tuple[float, float]  # height, width
Rect = tuple[float, float, float, float]  # top, left, height, width, as parts of the whole
WHOLE: Rect = (0.0, 0.0, 1.0, 1.0)

# What helps where a scene of many frames meets fewer latents.
ONE_FRAME = (
    "connect the latent of the same Compose Scene. To work on one picture of the scene, as "
    "detailers do, use a Compose Scene of its own for it: first_frame is its number, frame_count 1"
)


@dataclass(frozen=True)
class View:
    """What one conditioning of a batch shows of a scene.

    Attributes:
        frames: number of each latent among those of the run.
        total: how many latents the run has.
        hw: (h, w) of the latents.
        part: the rectangle of the canvas that they cover.
    """

    frames: tuple[int, ...]
    total: int
    hw: tuple[int, int]
    part: Rect = WHOLE

    @property
    def canvas_hw(self) -> Size:
        """(h, w) the whole canvas has at the scale of these latents."""
        return self.hw[0] / self.part[2], self.hw[1] / self.part[3]

    @property
    def area(self) -> tuple[float, float, float, float]:
        """(h, w, top, left) in latents of that canvas."""
        height, width = self.canvas_hw
        return *self.hw, self.part[0] * height, self.part[1] * width


def frames_seen(options: Mapping, count: int) -> tuple[tuple[int, ...], int]:
    """(numbers of the `count` latents of a batch, how many there are in all).

    Args:
        options: the transformer options of the call; a context window is told in them.

    Raises:
        SceneError: the window does not say which latents these are.
    """
    frames, total = _window(options) or (tuple(range(count)), count)
    if len(frames) != count:
        raise SceneError(
            f"A context window of {len(frames)} frames meets a batch of {count} latents: another "
            "node changes the batch on its way to the model; remove it or the context options."
        )
    return frames, total


def _window(options: Mapping) -> tuple[tuple[int, ...], int] | None:
    theirs = options.get("ad_params")  # AnimateDiff-Evolved, on purpose for other packs
    if theirs and theirs.get("sub_idxs") is not None:
        return tuple(theirs["sub_idxs"]), int(theirs["full_length"])
    window = options.get("context_window")  # core
    if window is None or getattr(window, "dim", None) != 0:
        return None
    anchor = getattr(window, "causal_anchor_index", None)  # one frame shown ahead of the rest
    ahead = [] if anchor is None or anchor < 0 else [anchor]
    return (*ahead, *window.index_list), int(window.total_frames)


def rows_for(values: torch.Tensor, view: View, what: str) -> torch.Tensor:
    """Rows of (F, ...) for the latents of a view; fewer rows than latents start over, as in core.

    Raises:
        SceneError: there are more rows than latents, so nobody knows which are meant.
    """
    count = values.shape[0]
    if count == 1:
        return values
    if count > view.total:
        raise SceneError(f"{count} {what} meet {view.total} latents: {ONE_FRAME}.")
    chosen = [frame % count for frame in view.frames]
    return values if chosen == list(range(count)) else values[chosen]


def same_picture(hw: Size, canvas_hw: Size) -> bool:
    """Whether `hw` is the canvas at another scale, each side rounded by up to one latent."""
    low = max((side - 1) / whole for side, whole in zip(hw, canvas_hw, strict=True))
    high = min((side + 1) / whole for side, whole in zip(hw, canvas_hw, strict=True))
    return low <= high


def check_canvas(hw: Size, canvas_hw: Size) -> None:
    """Refuse latents that cannot show a whole scene of `canvas_hw`.

    Raises:
        SceneError: names both sizes and what to do.
    """
    if not same_picture(hw, canvas_hw):
        raise SceneError(
            f"The scene is a picture of {pixels(canvas_hw)}, but the latents are {pixels(hw)}: "
            "another shape, or a part of unknown place. Give Compose Scene the width and height "
            "that is sampled. Where a detailer cuts out a part, give it a model and prompts that "
            "did not go through Compose Scene."
        )


def unknown_place(hw: Size, canvas_hw: Size) -> SceneError:
    """The refusal of a part of the picture that nobody says the place of."""
    return SceneError(
        f"References and poses are placed on a picture of {pixels(canvas_hw)}, but the model was "
        f"handed a part of {pixels(hw)} of unknown place: sample without tiling, or tile with a "
        "node that crops the prompts too, as Ultimate SD Upscale does."
    )


def inside(outer: Rect, inner: Rect) -> Rect:
    """`inner`, given in parts of `outer`, in parts of the whole."""
    if outer == WHOLE:
        return inner
    top, left, height, width = outer
    return top + inner[0] * height, left + inner[1] * width, inner[2] * height, inner[3] * width


def named_part(conds: Mapping[str, Sequence[Mapping]]) -> Rect | None:
    """The crop that another pack made of this run's prompts, read off their ControlNets.

    Raises:
        SceneError: the prompts are cropped differently.
    """
    parts = set()
    for control in (cond.get("control") for group in conds.values() for cond in group or ()):
        while control is not None:
            parts.add(getattr(control, "part", None))
            control = getattr(control, "previous_controlnet", None)
    parts.discard(None)
    if len(parts) > 1:
        raise SceneError("The prompts of this run are cropped to different parts of the picture.")
    return parts.pop() if parts else None


# Nodes that cut a picture into tiles crop the control pictures of its prompts and say nothing else.
# So they are shown a picture that says in every pixel where it is, in bytes, since some go through
# 8 bit: (column high, column low, row high, row low), each held in the middle of its step.


def places(height: int, width: int, frames: int = 1) -> torch.Tensor:
    """(frames, 4, height, width) 0..1: each pixel holds its own place. One frame's memory."""
    rows, columns = torch.arange(height), torch.arange(width)
    four = [
        axis.expand(height, width)
        for axis in (columns // 256, columns % 256, rows[:, None] // 256, rows[:, None] % 256)
    ]
    picture = (torch.stack(four).float() + 0.5) / 255.0
    return picture[None].expand(frames, -1, -1, -1)


def part_of_places(picture: torch.Tensor, height: int, width: int) -> Rect | None:
    """The part of `places(height, width)` that a crop, at any scale, shows; None if it is none."""
    values = torch.floor(picture[0].float() * 255.0 + 0.25)
    across = values[0, values.shape[1] // 2] * 256 + values[1, values.shape[1] // 2]
    down = values[2, :, values.shape[2] // 2] * 256 + values[3, :, values.shape[2] // 2]
    spans = _span(down, height), _span(across, width)
    if None in spans:
        return None
    (top, tall), (left, wide) = spans
    return top, left, tall, wide


def _span(line: torch.Tensor, size: int) -> tuple[float, float] | None:
    """(start, length) of a run of pixel numbers, as parts of `size`."""
    first, last = float(line[0]), float(line[-1])
    step = (last - first) / max(len(line) - 1, 1)
    even = torch.linspace(first, last, len(line))
    if step < 0 or last >= size or float((line - even).abs().max()) > max(1.0, step):
        return None
    reach = max(step, 1.0) / 2  # enlarged or not, the outer pixels are seen whole
    start, stop = max(round(first + 0.5 - reach), 0), min(round(last + 0.5 + reach), size)
    return start / size, (stop - start) / size


def pixels(hw: Size) -> str:
    return f"{round(hw[1] * LATENT_PX)}x{round(hw[0] * LATENT_PX)}"
