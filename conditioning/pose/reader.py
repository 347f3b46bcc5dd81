"""Reading POSE_KEYPOINT in any of the dialects that are about.

Frames come as OpenPose's own JSON, as ComfyUI packs pass them, and as editors save them: pixels
or fractions of the canvas, real scores or 1.0, BODY_18 or BODY_25, null, empty or absent parts.
The way through: `labelled_frames` finds the frames, `_raw_frame` checks their numbers, `assemble`
settles what only the whole frame or sequence can tell (units, canvas) and makes `PoseFrame`s.
"""

import json
import logging
import math
import numbers
import reprlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..errors import PoseError
from .model import MAX_SIDE_PX, PARTS, Person, PoseFrame

logger = logging.getLogger(__name__)

Units = Literal["auto", "pixels", "fractions", "padded_fractions"]
UNITS: tuple[Units, ...] = ("auto", "pixels", "fractions", "padded_fractions")

MAX_COORDINATE = 1e6  # beyond this a number is no position on any canvas
FRACTION_REACH = 2.0  # fractions of a canvas stay within this, points off the canvas included
UNKNOWN_SIDE_PX = 1024
NETWORK_GRID_PX = 64  # some OpenPose nodes divide by the size padded to this

_POINT_COUNTS = {"body": (18, 25), "face": (70, 68), "left_hand": (21,), "right_hand": (21,),
                 "feet": (6,)}  # fmt: skip
_REMEDY = "Correct or remove that part, or export the pose again"
_BODY_18_FROM_25 = [*range(8), *range(9, 19)]  # drops 8, the middle of the hips
_FEET_FROM_25 = slice(19, 25)


@dataclass
class _RawFrame:
    """Numbers of one frame as they stand in the file: people as {field: (points, 3) float64}."""

    where: str
    people: list[dict[str, np.ndarray]]
    width: int | None
    height: int | None
    units: Units | None = None  # when the frame itself says so, as those of our writer do


def read_poses(
    data: Any,
    source: str = "keypoints",
    units: Units = "auto",
    canvas: tuple[int | None, int | None] = (None, None),
) -> tuple[PoseFrame, ...]:
    """The pose frames in `data`, in pixels, with the confidences they came with.

    Args:
        data: JSON text, one frame dict, or a list of frames.
        source: what errors call the data, for example a file name.
        units: "auto" decides once per frame between pixels and fractions of the canvas;
            "padded_fractions" are fractions of the canvas padded to multiples of 64, which is
            what some OpenPose nodes write.
        canvas: (width, height) in pixels; a side that is not None replaces what the frames say.

    Raises:
        PoseError: naming source, frame, person and part.
    """
    return assemble(labelled_frames(data, source), units, canvas)


def labelled_frames(data: Any, source: str) -> list[tuple[str, dict]]:
    """The frame dicts in `data`, each with the words an error uses for it."""
    if isinstance(data, (str, bytes, bytearray)):
        data = _parsed(data, source)
    frames = data if isinstance(data, (list, tuple)) else [data]
    if not frames:
        raise PoseError(f"{source}: there are no pose frames in it.")
    labelled = []
    for number, frame in enumerate(frames, 1):
        where = f"{source}, frame {number}" + (f" of {len(frames)}" if len(frames) > 1 else "")
        if isinstance(frame, str):
            frame = _parsed(frame, where)
        if not isinstance(frame, dict):
            raise PoseError(
                f"{where}: expected an OpenPose frame with 'people', got {_kind(frame)}."
            )
        labelled.append((where, frame))
    return labelled


def assemble(
    labelled: list[tuple[str, dict]],
    units: Units = "auto",
    canvas: tuple[int | None, int | None] = (None, None),
) -> tuple[PoseFrame, ...]:
    """The `PoseFrame`s of checked frame dicts; see `read_poses`."""
    if units not in UNITS:
        raise PoseError(f"Unknown units {units!r}: use one of {', '.join(UNITS)}.")
    raw = [_raw_frame(frame, where) for where, frame in labelled]
    kinds = [frame.units or _units_of(frame) if units == "auto" else units for frame in raw]
    for frame in raw:
        frame.width, frame.height = canvas[0] or frame.width, canvas[1] or frame.height
    _complete_canvases(raw, kinds)
    return tuple(_pose_frame(frame, kind) for frame, kind in zip(raw, kinds, strict=True))


def _parsed(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise PoseError(f"{where}: the JSON is nested too deeply to be keypoints.") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise PoseError(
            f"{where}: not valid JSON ({error}). Save it again from the pose editor or detector."
        ) from None


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _raw_frame(frame: dict, where: str) -> _RawFrame:
    width = _side(frame, ("canvas_width", "width"), where)
    height = _side(frame, ("canvas_height", "height"), where)
    if "people" in frame:
        entries = [] if frame["people"] is None else frame["people"]
        read = _person_parts
    elif "keypoints" in frame:  # early editors: {"width", "height", "keypoints": [[[x, y], ..]]}
        entries, read = _editor_people(frame["keypoints"]), _editor_parts
    elif "animals" in frame or frame.get("version") == "ap10k":
        raise PoseError(
            f"{where}: these are animal keypoints (AP10K), which no human pose ControlNet "
            "understands. Use a human pose detector."
        )
    else:
        keys = ", ".join(repr(str(key)[:40]) for key in list(frame)[:6]) or "no keys"
        raise PoseError(f"{where}: expected 'people' in the OpenPose format, found {keys}.")
    if not isinstance(entries, (list, tuple)):
        raise PoseError(f"{where}: 'people' must be a list, got {_kind(entries)}.")
    people = [read(e, f"{where}, person {number}") for number, e in enumerate(entries, 1)]
    units = frame.get("units")
    return _RawFrame(where, people, width, height, units if units in UNITS[1:] else None)


def _side(frame: dict, keys: tuple[str, ...], where: str) -> int | None:
    """A canvas side in pixels; absent, null and 0 mean unknown."""
    key = next((key for key in keys if frame.get(key) is not None), None)
    if key is None:
        return None
    value = frame[key]
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= MAX_SIDE_PX:
        shown = repr(value)[:40]
        raise PoseError(
            f"{where}: {key} must be a number from 1 to {MAX_SIDE_PX} (pixels), got {shown}. "
            "Correct it or leave it out."
        )
    return math.ceil(value) or None


def _person_parts(entry: Any, where: str) -> dict[str, np.ndarray]:
    if not isinstance(entry, dict):
        raise PoseError(f"{where}: expected an object with keypoint lists, got {_kind(entry)}.")
    if not any(part.key in entry for part in PARTS):
        raise PoseError(f"{where}: has none of {', '.join(part.key for part in PARTS)}.")
    parts = {}
    for part in PARTS:
        label = f"{where}, {part.field.replace('_', ' ')}"
        points = _points(entry.get(part.key), label, _POINT_COUNTS[part.field])
        if points is not None:
            parts[part.field] = points
    return _canonical(parts)


def _editor_people(keypoints: Any) -> Any:
    """One person's list of points, or a list of people: always the latter."""
    if not isinstance(keypoints, (list, tuple)) or not keypoints:
        return keypoints or []
    first = next((item for item in keypoints if item is not None), None)
    one_person = isinstance(first, (list, tuple)) and not any(
        isinstance(value, (list, tuple)) for value in first
    )
    return [keypoints] if one_person and len(first) <= 3 else keypoints


def _editor_parts(entry: Any, where: str) -> dict[str, np.ndarray]:
    points = _points(entry, f"{where}, body", _POINT_COUNTS["body"])
    return _canonical({} if points is None else {"body": points})


def _points(values: Any, where: str, counts: tuple[int, ...]) -> np.ndarray | None:
    """(points, 3) float64 from flat or nested triples or from pairs; None when there are none."""
    if values is None:
        return None
    array = _numbers(values, where)
    if array.size == 0:
        return None
    if array.ndim == 1 and array.size % 3 == 0:
        array = array.reshape(-1, 3)
    if array.ndim == 2 and array.shape[1] == 2:  # pairs: the point is there unless it is 0, 0
        there = (array != 0).any(axis=1) & (array >= 0).any(axis=1)
        array = np.column_stack([array, there.astype(np.float64)])
    if array.ndim != 2 or array.shape[1] != 3 or len(array) not in counts:
        wanted = " or ".join(str(3 * count) for count in counts)
        raise PoseError(
            f"{where}: expected {wanted} numbers (x, y, confidence per point), "
            f"got {' x '.join(map(str, array.shape)) or 'one'}. {_REMEDY}."
        )
    if not np.isfinite(array).all():
        bad = _first_bad(~np.isfinite(array))
        raise PoseError(f"{where}: point {bad} is NaN or infinite. {_REMEDY}.")
    far = np.abs(array[:, :2]) > MAX_COORDINATE
    if far.any():
        raise PoseError(
            f"{where}: point {_first_bad(far)} lies more than {MAX_COORDINATE:g} away. {_REMEDY}."
        )
    array[array[:, 2] <= 0] = 0.0
    array[:, 2] = np.minimum(array[:, 2], 1.0)
    return array


def _numbers(values: Any, where: str) -> np.ndarray:
    """`values` as a float64 array of its own; null points and null numbers become 0."""
    if isinstance(values, (list, tuple)) and any(value is None for value in values):
        nested = next((v for v in values if isinstance(v, (list, tuple))), None)
        blank = 0.0 if nested is None else [0.0] * len(nested)
        values = [blank if value is None else value for value in values]
    try:
        array = np.asarray(values)
        if array.dtype == object:
            if not all(v is None or isinstance(v, numbers.Real) for v in array.flat):
                raise TypeError
            array = np.where(np.equal(array, None), 0.0, array)
        elif array.dtype.kind not in "iuf":
            raise TypeError
        return array.astype(np.float64)
    except OverflowError:
        raise PoseError(f"{where}: holds a number too large. {_REMEDY}.") from None
    except (TypeError, ValueError):
        raise PoseError(
            f"{where}: expected a list of numbers, got {reprlib.repr(values)}. {_REMEDY}."
        ) from None


def _first_bad(bad: np.ndarray) -> int:
    return int(np.nonzero(bad.any(axis=1))[0][0]) + 1


def _canonical(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """BODY_18, feet apart, the 68-point face completed with the eyes of the body."""
    body = parts.get("body")
    if body is not None and len(body) == 25:
        parts.setdefault("feet", body[_FEET_FROM_25])
        parts["body"] = body = body[_BODY_18_FROM_25]
    face = parts.get("face")
    if face is not None and len(face) == 68:
        pupils = np.zeros((2, 3)) if body is None else body[14:16]
        parts["face"] = np.concatenate([face, pupils])
    return parts


def _present(frame: _RawFrame) -> np.ndarray:
    """x, y of every point of the frame that is there: (N, 2)."""
    points = [part[part[:, 2] > 0, :2] for person in frame.people for part in person.values()]
    return np.concatenate(points) if points else np.zeros((0, 2))


def _units_of(frame: _RawFrame) -> Units:
    """Pixels or fractions, by all points of the frame, so that a few outliers do not decide."""
    points = _present(frame)
    if len(points) == 0:
        return "pixels"
    reach = np.abs(points).max(axis=1)
    whole_numbers = reach.max() > 1 and np.array_equal(points, np.round(points))
    small = np.quantile(reach, 0.9) <= FRACTION_REACH
    return "fractions" if small and not whole_numbers else "pixels"


def _complete_canvases(raw: list[_RawFrame], kinds: list[Units]) -> None:
    """Give frames without a canvas one size, so that a sequence does not jump."""
    unknown = [
        (frame, kind)
        for frame, kind in zip(raw, kinds, strict=True)
        if frame.width is None or frame.height is None
    ]
    if not unknown:
        return
    known = next(((f.width, f.height) for f in raw if f.width and f.height), None)
    if known is None:
        extents = [_present(frame) for frame, kind in unknown if kind == "pixels"]
        extent = np.concatenate([*extents, np.zeros((0, 2))])
        known = tuple(_guessed_side(extent[:, axis]) for axis in (0, 1))
    for frame, _ in unknown:
        frame.width = frame.width or known[0]
        frame.height = frame.height or known[1]
    logger.warning(
        "%s: no canvas size in %d of %d frames, taking %d x %d pixels",
        unknown[0][0].where, len(unknown), len(raw), *known,
    )  # fmt: skip


def _guessed_side(positions_px: np.ndarray) -> int:
    if positions_px.size == 0:
        return UNKNOWN_SIDE_PX
    grid = NETWORK_GRID_PX
    return int(np.clip(math.ceil(positions_px.max() / grid) * grid, grid, MAX_SIDE_PX))


def _pose_frame(frame: _RawFrame, kind: Units) -> PoseFrame:
    people = []
    for parts in frame.people:
        if kind != "pixels":
            parts = {field: _to_pixels(frame, field, p, kind) for field, p in parts.items()}
        seen = {field: p for field, p in parts.items() if field == "body" or p[:, 2].any()}
        seen.setdefault("body", np.zeros((18, 3)))
        people.append(Person(**_settle_hands(seen)))
    return PoseFrame(tuple(people), frame.width, frame.height)


def _to_pixels(frame: _RawFrame, field: str, points: np.ndarray, kind: Units) -> np.ndarray:
    size = np.array([frame.width, frame.height], dtype=np.float64)
    if kind == "padded_fractions":
        size = np.ceil(size / NETWORK_GRID_PX) * NETWORK_GRID_PX
    points = points.copy()
    points[:, :2] = np.clip(points[:, :2] * size, -MAX_COORDINATE, MAX_COORDINATE)
    if field in ("face", "left_hand", "right_hand"):
        # OpenPose nodes mark a missing point of these as (-1 px, -1 px) with confidence 1.
        marked = ((points[:, :2] < 0) & (points[:, :2] >= -1.01)).all(axis=1)
        points[marked] = 0.0
    return points


def _settle_hands(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Swap the hands where they clearly hang on the other wrist: core's SDPose names them so."""
    right, left = parts["body"][4], parts["body"][7]
    if not (right[2] and left[2]):
        return parts
    here = across = 0.0
    for field, own, other in (("right_hand", right, left), ("left_hand", left, right)):
        wrist = parts[field][0] if field in parts else np.zeros(3)
        if wrist[2]:
            here += math.dist(wrist[:2], own[:2])
            across += math.dist(wrist[:2], other[:2])
    if here <= 3 * across:
        return parts
    swapped = {"right_hand": parts.get("left_hand"), "left_hand": parts.get("right_hand")}
    return {**parts, **swapped}
