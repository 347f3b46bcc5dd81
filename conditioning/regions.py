"""Regions of a picture from the skeletons in it: soft masks that share every pixel between them.

A `RegionSet` keeps shapes, not pixels: masks are drawn at the size somebody needs (the latent grid,
the attention grid, the canvas), so nothing is resampled and a frame looks the same alone and in a
batch. Coverage of a body is a smooth step over the signed distance to its nearest shape; people and
their parts are laid over each other back to front, and what nobody covers is background. Hence the
parts add up to 1 in every pixel by construction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .errors import SceneError
from .pose import FITS, PoseFrame, resize_pose
from .silhouette import FIGURE_REGIONS, Figure, Margins, Piece, figure

# Every pixel is divided between these: their masks add up to 1.
PARTS = ("background", "head", "hands", "upper", "lower", "feet")
# Unions of parts that have a name of their own.
UNIONS: Mapping[str, tuple[str, ...]] = {
    "person": ("head", "hands", "upper", "lower", "feet"),
    "outfit": ("upper", "lower", "feet"),
}
REGIONS = (*PARTS, *UNIONS)

# Who stands in front: whoever meets the ground lower in the picture, or the order of the list.
ORDERS = ("ground", "first in front", "last in front")

_FAR_PX = 1e9
_CACHED_PIXELS = 1 << 21  # small masks are asked for again and again, large ones are let go


@dataclass(frozen=True, eq=False)
class RegionSet:
    """The regions of N frames, drawn as masks at any size on demand.

    Attributes:
        frames: for each frame its figures, front to back.
        width, height: canvas in pixels; masks of other sizes show the same canvas.
        feather: half width of the soft edge as a fraction of a person's standing height.
    """

    frames: tuple[tuple[Figure, ...], ...]
    width: int
    height: int
    feather: float
    _cache: dict = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def people(self) -> int:
        """One more than the highest index of a person that is visible in any frame."""
        return max((one.index + 1 for frame in self.frames for one in frame), default=0)

    def mask(
        self, name: str, width: int = 0, height: int = 0, person: int | None = None
    ) -> torch.Tensor:
        """A region as (N, height, width) float32, 0..1; canvas size when none is given.

        Args:
            name: one of `REGIONS`.
            person: only the part of that person (index in its frame); everybody when None.

        Raises:
            SceneError: an unknown name, or a person's background.
        """
        parts = self._parts_of(name, person)
        drawn = self._drawn(width or self.width, height or self.height, person)
        return _union(drawn, parts)

    def grown(self, name: str, by: float, width: int = 0, height: int = 0) -> torch.Tensor:
        """A region of people made wider by `by` standing heights, (N, height, width) float32.

        It ignores who stands in front, so it is meant for "around here" and not for sharing.
        """
        parts = self._parts_of(name, None)
        if "background" in parts:
            raise SceneError("The background cannot be grown; grow 'person' and invert it.")
        width, height = width or self.width, height or self.height
        canvas = np.zeros((len(self.frames), height, width), dtype=np.float32)
        grid = _Grid(self, width, height)
        for frame, figures in zip(canvas, self.frames, strict=True):
            for one in figures:
                pieces = [piece for piece in one.pieces if piece.region in parts]
                layer = _layer(pieces, one, grid, by * one.stature_px)
                if layer is not None:
                    box, coverage, _ = layer
                    np.maximum(frame[box], coverage, out=frame[box])
        return torch.from_numpy(canvas)

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        """All `REGIONS` at canvas size, (N, height, width) float32 each."""
        drawn = _draw(self, self.width, self.height, None)
        return drawn | {name: _union(drawn, parts) for name, parts in UNIONS.items()}

    def select(self, start: int, count: int) -> "RegionSet":
        """The frames start .. start + count alone."""
        return RegionSet(self.frames[start : start + count], self.width, self.height, self.feather)

    def _parts_of(self, name: str, person: int | None) -> tuple[str, ...]:
        if name not in REGIONS:
            raise SceneError(f"Unknown region {name!r}; choose one of: {', '.join(REGIONS)}.")
        if name == "background" and person is not None:
            raise SceneError("The background belongs to nobody; leave the person out.")
        return UNIONS.get(name, (name,))

    def _drawn(self, width: int, height: int, person: int | None) -> dict[str, torch.Tensor]:
        key = (width, height, person)
        if key in self._cache:
            return self._cache[key]
        drawn = _draw(self, width, height, person)
        if width * height * len(self.frames) <= _CACHED_PIXELS:
            if len(self._cache) >= 4:
                self._cache.pop(next(iter(self._cache)))
            self._cache[key] = drawn
        return drawn


def regions_from_poses(
    frames: Sequence[PoseFrame],
    width: int = 0,
    height: int = 0,
    *,
    fit: str = "contain",
    feather: float = 0.025,
    order: str = "ground",
    margins: Margins | None = None,
) -> RegionSet:
    """The regions of `frames` on a canvas of width x height pixels.

    Args:
        frames: poses in pixels; a frame without people is all background.
        width, height: canvas; the size of the first frame when 0.
        fit: how poses of another size are brought there, one of `pose.FITS`.
        feather: half width of soft edges as a fraction of standing height, 0 .. 0.2.
        order: one of `ORDERS`.

    Raises:
        SceneError: no frames, an unknown name, a size or feather out of range.
    """
    if not frames:
        raise SceneError("There is no pose to make regions from: the list of frames is empty.")
    if order not in ORDERS:
        raise SceneError(f"Unknown order {order!r}; choose one of: {', '.join(ORDERS)}.")
    if fit not in FITS:
        raise SceneError(f"Unknown fit {fit!r}; choose one of: {', '.join(FITS)}.")
    if not 0.0 <= feather <= 0.2:
        raise SceneError(f"feather is {feather:g}; it must lie in 0 .. 0.2 of a person's height.")
    width, height = width or frames[0].width, height or frames[0].height
    if width < 1 or height < 1:
        raise SceneError(f"A canvas of {width} x {height} pixels is too small.")
    margins = margins or Margins()
    placed = [resize_pose(frame, width, height, fit) for frame in frames]
    return RegionSet(
        frames=tuple(_figures(frame, margins, order) for frame in placed),
        width=width,
        height=height,
        feather=feather,
    )


def _figures(frame: PoseFrame, margins: Margins, order: str) -> tuple[Figure, ...]:
    """The figures of a frame, front to back."""
    found = [
        figure(person, index, frame.width, frame.height, margins)
        for index, person in enumerate(frame.people)
    ]
    figures = [one for one in found if one is not None]
    if order == "ground":
        figures.sort(key=lambda one: -one.ground_y_px)
    elif order == "last in front":
        figures.reverse()
    return tuple(figures)


class _Grid:
    """Pixel centres of a mask in canvas coordinates, and the soft edge that suits it."""

    def __init__(self, regions: RegionSet, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.step_x, self.step_y = regions.width / width, regions.height / height
        self.x = (np.arange(width, dtype=np.float32) + 0.5) * np.float32(self.step_x)
        self.y = (np.arange(height, dtype=np.float32) + 0.5) * np.float32(self.step_y)
        self.feather = regions.feather

    def feather_px(self, stature_px: float) -> float:
        # Never sharper than a pixel of this grid, or thin shapes would flicker.
        return max(self.feather * stature_px, 0.5 * max(self.step_x, self.step_y))

    def box(self, bounds: tuple[float, float, float, float], reach: float):
        """The slices (rows, columns) of all pixel centres within `reach` of the bounds."""
        x0, y0, x1, y1 = bounds
        columns = self._span(x0 - reach, x1 + reach, self.step_x, self.width)
        rows = self._span(y0 - reach, y1 + reach, self.step_y, self.height)
        return rows, columns

    @staticmethod
    def _span(low: float, high: float, step: float, size: int) -> slice:
        start = int(np.clip(np.floor(low / step - 0.5), 0, size))
        stop = int(np.clip(np.ceil(high / step + 0.5), 0, size))
        return slice(start, max(start, stop))


def _union(drawn: Mapping[str, torch.Tensor], parts: Sequence[str]) -> torch.Tensor:
    # A single part is copied too: nobody may change the masks that others will get.
    total = drawn[parts[0]].clone()
    for part in parts[1:]:
        total += drawn[part]
    return total.clamp_(0.0, 1.0)


def _draw(
    regions: RegionSet, width: int, height: int, person: int | None
) -> dict[str, torch.Tensor]:
    """All parts of all frames; with `person`, only what is seen of that person."""
    count = len(regions.frames)
    out = {part: np.zeros((count, height, width), dtype=np.float32) for part in PARTS}
    grid = _Grid(regions, width, height)
    for number, figures in enumerate(regions.frames):
        free = np.ones((height, width), dtype=np.float32)
        for one in figures:
            layer = _layer(one.pieces, one, grid, 0.0)
            if layer is None:
                continue
            box, coverage, shares = layer
            if person is None or one.index == person:
                visible = coverage * free[box]
                for part, share in shares.items():
                    out[part][number][box] += visible * share
            free[box] *= 1.0 - coverage
        out["background"][number] = free
    return {part: torch.from_numpy(mask) for part, mask in out.items()}


def _layer(pieces: Sequence[Piece], one: Figure, grid: _Grid, grow_px: float):
    """(box, coverage 0..1, shares of the regions that add up to 1) of one figure, or None."""
    if not pieces:
        return None
    feather = grid.feather_px(one.stature_px)
    reach = feather + grow_px
    boxes = [grid.box(piece.shape.bounds(), reach) for piece in pieces]
    rows = slice(min(b[0].start for b in boxes), max(b[0].stop for b in boxes))
    columns = slice(min(b[1].start for b in boxes), max(b[1].stop for b in boxes))
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    if 0 in shape:
        return None
    body = np.full(shape, _FAR_PX, dtype=np.float32)
    parts = {
        region: np.full(shape, _FAR_PX, dtype=np.float32)
        for region in FIGURE_REGIONS
        if any(piece.region == region for piece in pieces)
    }
    for piece, (piece_rows, piece_columns) in zip(pieces, boxes, strict=True):
        y, x = grid.y[piece_rows][:, None], grid.x[piece_columns][None, :]
        inner = (
            slice(piece_rows.start - rows.start, piece_rows.stop - rows.start),
            slice(piece_columns.start - columns.start, piece_columns.stop - columns.start),
        )
        distance = piece.shape.distance(x, y) - grow_px
        np.minimum(body[inner], distance, out=body[inner])
        if piece.clip is not None:
            distance = np.maximum(distance, piece.clip.distance(x, y) - grow_px)
        np.minimum(parts[piece.region][inner], distance, out=parts[piece.region][inner])
    return (rows, columns), _soft_step(body, feather), _shares(parts, feather)


def _shares(parts: dict[str, np.ndarray], feather: float) -> dict[str, np.ndarray]:
    """Who owns which part of a body: regions laid over each other back to front, then scaled.

    Scaling to a sum of 1 closes the seams: where two soft edges meet inside the body, no background
    may shine through.
    """
    left: np.ndarray | float = 1.0
    owned = {}
    for region in reversed([name for name in FIGURE_REGIONS if name in parts]):
        coverage = _soft_step(parts[region], feather)
        owned[region] = coverage * left
        left = left * (1.0 - coverage)
    total = np.maximum(sum(owned.values()), 1e-12)
    return {region: share / total for region, share in owned.items()}


def _soft_step(distance_px: np.ndarray, feather_px: float) -> np.ndarray:
    """1 inside, 0 outside, a cubic smooth step over +- feather_px around the outline."""
    t = np.clip(0.5 - distance_px / np.float32(2.0 * feather_px), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
