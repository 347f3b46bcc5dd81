"""One scene from four inputs: pose, character, attire and background share one set of masks.

`plan_scene` decides everything that can be decided without a model: which frames, the control
pictures, where each reference and each prompt acts, how strong control is where, and what of a
plate is painted over. A `ScenePlan` holds the result on the latent grid (1/8 of the canvas), where
the sampler needs it; the nodes only carry it out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from .errors import SceneError
from .pose import DEFAULT_STYLE, PoseFrame, draw_poses, resize_pose
from .references import PER_FRAME, Reference, resized
from .regions import REGIONS, RegionSet, regions_from_poses

LATENT_PX = 8  # canvas pixels to a side of a latent one, SDXL's autoencoder
MIN_SIDE_PX, MAX_SIDE_PX = 64, 8192
# Who holds a place of its own, so that the character need not fill it.
_DRESSED = ("outfit", "upper", "lower", "feet")


@dataclass(frozen=True)
class SceneOptions:
    """What can be set about a scene besides its inputs.

    Attributes:
        first_frame, frame_count: which poses; a count of 0 means all that follow.
        fit: how a pose of other proportions is placed, one of `pose.FITS`.
        pose_style: name in `pose.STYLES`.
        pose_outside: ControlNet strength away from people, as a fraction of that on them. The black
            around a skeleton would otherwise argue for an empty background.
        pose_reach: how far around a person control stays strong, in standing heights.
        plate_reach: how far around a person a plate is painted over, in standing heights.
        shared_noise: give every frame the same noise, for steadier films.
    """

    first_frame: int = 0
    frame_count: int = 0
    fit: str = "contain"
    pose_style: str = DEFAULT_STYLE
    pose_outside: float = 0.3
    pose_reach: float = 0.12
    plate_reach: float = 0.06
    shared_noise: bool = False


@dataclass(frozen=True, eq=False)
class PlacedReference:
    """A reference and where it acts: `mask` is (N, h, w) on the latent grid."""

    reference: Reference
    region: str
    mask: torch.Tensor


@dataclass(frozen=True, eq=False)
class PlacedPrompt:
    """A text for a region: `mask` is (N, h, w) on the latent grid."""

    region: str
    text: str
    mask: torch.Tensor


@dataclass(frozen=True, eq=False)
class Plate:
    """A background that is kept: pictures (1 or N, H, W, 3), and (N, h, w), 1 = painted over."""

    images: torch.Tensor
    painted: torch.Tensor


@dataclass(frozen=True, eq=False)
class ScenePlan:
    """Everything about a scene of N frames that needs no model.

    Attributes:
        indices: which of the given poses the frames are.
        noise_indices: number of each frame's noise; equal numbers get equal noise.
        frames: the chosen poses on the canvas.
        hint_nhwc: control pictures (N, H, W, 3) float 0..1.
        control_map: (N, h, w) 0..1, factor on the ControlNet's strength; None means 1 everywhere.
        references: those that speak through an IP-Adapter.
        notes: sentences for the user about what was decided for them.
    """

    width: int
    height: int
    indices: tuple[int, ...]
    noise_indices: tuple[int, ...]
    frames: tuple[PoseFrame, ...]
    regions: RegionSet
    hint_nhwc: torch.Tensor
    control_map: torch.Tensor | None
    references: tuple[PlacedReference, ...]
    prompts: tuple[PlacedPrompt, ...]
    plate: Plate | None
    notes: tuple[str, ...]

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the latents."""
        return self.height // LATENT_PX, self.width // LATENT_PX

    def with_note(self, note: str) -> "ScenePlan":
        return replace(self, notes=(*self.notes, note))


def plan_scene(
    poses: Sequence[PoseFrame],
    width: int,
    height: int,
    *,
    references: Sequence[Reference] = (),
    prompts: Mapping[str, str] | None = None,
    regions: RegionSet | None = None,
    options: SceneOptions | None = None,
) -> ScenePlan:
    """The plan of a scene on a canvas of width x height pixels.

    Args:
        poses: all poses; `options` choose among them.
        references: at most one plate among them.
        prompts: region name -> text that holds there; empty texts are left out.
        regions: of all poses on this canvas; made from the poses when None.

    Raises:
        SceneError: a size, frame, region or number of pictures that does not work out.
    """
    options = options or SceneOptions()
    width, height, notes = _canvas(width, height)
    chosen = _chosen(len(poses), options)
    frames = tuple(resize_pose(poses[i], width, height, options.fit) for i in chosen)
    if regions is None:
        regions = regions_from_poses(frames)
    else:
        regions = _given_regions(regions, len(poses), width, height).select(
            chosen.start, len(chosen)
        )
    grid = (width // LATENT_PX, height // LATENT_PX)
    notes += _notes_on_people(regions, chosen)
    hint = draw_poses(frames, width, height, style=options.pose_style)
    speaking = [one for one in references if one.speaks]
    return ScenePlan(
        width=width,
        height=height,
        indices=tuple(chosen),
        noise_indices=(0,) * len(chosen) if options.shared_noise else tuple(chosen),
        frames=frames,
        regions=regions,
        hint_nhwc=torch.from_numpy(hint.astype(np.float32) / 255.0),
        control_map=_control_map(regions, grid, options),
        references=tuple(_placed(one, speaking, regions, grid, chosen, poses) for one in speaking),
        prompts=_placed_prompts(prompts or {}, regions, grid),
        plate=_plate(references, regions, grid, chosen, poses, options),
        notes=tuple(notes),
    )


def _canvas(width: int, height: int) -> tuple[int, int, list[str]]:
    for name, side in (("width", width), ("height", height)):
        if not MIN_SIDE_PX <= side <= MAX_SIDE_PX:
            raise SceneError(f"{name} is {side}; choose {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels.")
    fitting = [LATENT_PX * round(side / LATENT_PX) for side in (width, height)]
    if fitting == [width, height]:
        return width, height, []
    note = (
        f"{width} x {height} became {fitting[0]} x {fitting[1]}: "
        f"sides must be multiples of {LATENT_PX} pixels."
    )
    return *fitting, [note]


def _chosen(count: int, options: SceneOptions) -> range:
    """Indices of the frames to make."""
    first = options.first_frame
    if count == 0:
        raise SceneError("There is no pose: connect at least one frame of keypoints.")
    if not 0 <= first < count:
        raise SceneError(f"first_frame is {first}, but there are {count} poses (0 to {count - 1}).")
    wanted = options.frame_count
    if wanted < 0:
        raise SceneError(f"frame_count is {wanted}; give 0 for all or how many frames to make.")
    return range(first, count if wanted == 0 else min(count, first + wanted))


def _given_regions(regions: RegionSet, poses: int, width: int, height: int) -> RegionSet:
    if (regions.width, regions.height) != (width, height):
        raise SceneError(
            f"The regions are for {regions.width} x {regions.height} pixels, the scene has "
            f"{width} x {height}: set the same width and height in Pose Regions."
        )
    if len(regions) != poses:
        raise SceneError(
            f"The regions come from {len(regions)} poses, the scene has {poses}: "
            "connect the same poses to both."
        )
    return regions


def _notes_on_people(regions: RegionSet, chosen: range) -> list[str]:
    empty = [str(chosen[i]) for i, figures in enumerate(regions.frames) if not figures]
    if not empty:
        return []
    named = ", ".join(empty[:8]) + (" ..." if len(empty) > 8 else "")
    return [f"No person found in frame {named}: all of the picture is background there."]


def _control_map(
    regions: RegionSet, grid: tuple[int, int], options: SceneOptions
) -> torch.Tensor | None:
    outside = options.pose_outside
    if not 0.0 <= outside <= 1.0:
        raise SceneError(f"pose_outside is {outside:g}; it is a fraction from 0 to 1.")
    if outside == 1.0:
        return None
    return torch.lerp(
        torch.full((), outside), torch.ones(()), regions.grown("person", options.pose_reach, *grid)
    )


def _placed(
    one: Reference,
    others: Sequence[Reference],
    regions: RegionSet,
    grid: tuple[int, int],
    chosen: range,
    poses: Sequence[PoseFrame],
) -> PlacedReference:
    dressed = any((o.region or o.role.region) in _DRESSED for o in others if o is not one)
    region = one.region or (one.role.region if dressed else one.role.region_alone)
    if one.combine == PER_FRAME:
        one = _per_frame(one, chosen, len(poses))
    person = None if region == "background" else one.person
    return PlacedReference(one, region, regions.mask(region, *grid, person=person))


def _per_frame(one: Reference, chosen: range, poses: int) -> Reference:
    """The reference with just the pictures of the chosen frames."""
    rows = _rows(one, chosen, poses)
    mask = None if one.mask is None else one.mask[rows]
    return replace(one, images=one.images[rows], mask=mask)


def _rows(one: Reference, chosen: range, poses: int) -> list[int]:
    """Which pictures belong to the chosen frames: one for each pose, or for each frame made."""
    count = len(one.images)
    if count == poses:
        return list(chosen)
    if count == len(chosen):
        return list(range(count))
    raise SceneError(
        f"The {one.role.name} reference has {count} pictures for {poses} poses: "
        "give one for each pose."
    )


def _placed_prompts(
    prompts: Mapping[str, str], regions: RegionSet, grid: tuple[int, int]
) -> tuple[PlacedPrompt, ...]:
    for region in prompts:
        if region not in REGIONS:
            raise SceneError(f"Unknown region {region!r}; choose one of: {', '.join(REGIONS)}.")
    return tuple(
        PlacedPrompt(region, text.strip(), regions.mask(region, *grid))
        for region, text in prompts.items()
        if text and text.strip()
    )


def _plate(
    references: Sequence[Reference],
    regions: RegionSet,
    grid: tuple[int, int],
    chosen: range,
    poses: Sequence[PoseFrame],
    options: SceneOptions,
) -> Plate | None:
    plates = [one for one in references if one.mode == "plate"]
    if not plates:
        return None
    if len(plates) > 1:
        raise SceneError("Only one background can be the plate; set the others to inspire.")
    images = plates[0].images
    if len(images) > 1:
        images = images[_rows(plates[0], chosen, len(poses))]
    filled = torch.stack([covering(one, regions.width, regions.height) for one in images])
    return Plate(filled, regions.grown("person", options.plate_reach, *grid))


def covering(picture: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """(H, W, 3) scaled and cut at the longer sides, evenly, so that it fills width x height."""
    scale = max(width / picture.shape[1], height / picture.shape[0])
    tall, wide = (max(round(side * scale), need) for side, need in zip(
        picture.shape[:2], (height, width), strict=True))  # fmt: skip
    scaled = resized(picture, tall, wide)
    top, left = (tall - height) // 2, (wide - width) // 2
    return scaled[top : top + height, left : left + width]
