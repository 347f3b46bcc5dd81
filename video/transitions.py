"""How one shot becomes the next. One kind of transition is one entry and one function.

Every kind is a function `mix(a, b, t, softness)` of two uint8 pictures (height, width, 3) of one
size and a progress t in (0, 1), giving a new uint8 picture. Wipes are all one kernel,
`field_wipe`: a static field m(u, v) in [0, 1] says when a point changes from A to B, so a new wipe
is a new field. What does not blend is copied, never computed in float.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch

from .easing import ease
from .errors import VideoError
from .sources import STRIP_ROWS
from .timeline import Transition

Mix = Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]
# u is 0 at the left edge and 1 at the right one, v the same from top to bottom; both broadcast.
Field = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class TransitionKind:
    name: str
    help: str
    mix: Mix | None  # None: a cut, which has no frame of its own


# --- K2: fades ------------------------------------------------------------------------------------


Weight = float | Callable[[slice], torch.Tensor]


def lerp_u8(a: np.ndarray, b: np.ndarray, weight: Weight, out: np.ndarray) -> None:
    """out = a + (b - a) * weight, rounded.

    `weight` is a number, or gives for a slice of rows what fits (rows, width, 1).
    """
    first, second, target = _tensor(a), _tensor(b), torch.from_numpy(out)
    rows, width, channels = a.shape
    with torch.inference_mode():
        buffers = torch.empty((2, min(STRIP_ROWS, rows), width, channels))
        for row in range(0, rows, STRIP_ROWS):
            part = slice(row, min(row + STRIP_ROWS, rows))
            step = weight
            if not isinstance(weight, float):
                step = weight(part)
                if step.max() <= 0 or step.min() >= 1:  # nothing to mix here
                    target[part] = (first if step.max() <= 0 else second)[part]
                    continue
            base, change = buffers[:, : part.stop - row]
            base.copy_(first[part])
            change.copy_(second[part])
            target[part] = torch.lerp(base, change, step, out=base).round_()


def _tensor(picture: np.ndarray) -> torch.Tensor:
    # torch only takes arrays it may write to, even where it never does.
    return torch.from_numpy(picture if picture.flags.writeable else picture.copy())


def crossfade(a: np.ndarray, b: np.ndarray, t: float, softness: float) -> np.ndarray:
    out = np.empty_like(a)
    lerp_u8(a, b, t, out)
    return out


def fade_through(grey: int, a: np.ndarray, b: np.ndarray, t: float, softness: float) -> np.ndarray:
    """A goes to a grey level in the first half, B comes out of it in the second one."""
    picture, weight = (a, 2.0 * t) if t < 0.5 else (b, 2.0 - 2.0 * t)
    out = np.empty_like(a)
    lerp_u8(picture, np.full_like(a, grey), weight, out)
    return out


# --- K1: field wipes ------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _sampled(field: Field, height: int, width: int) -> np.ndarray:
    u = ((np.arange(width, dtype=np.float32) + 0.5) / width)[None, :]
    v = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]
    return np.ascontiguousarray(field(u, v, width / height), dtype=np.float32)


def field_wipe(field: Field, a: np.ndarray, b: np.ndarray, t: float, softness: float) -> np.ndarray:
    """B where the field is below t, A elsewhere, with a smoothstep edge of width `softness`.

    weight = smoothstep((t (1 + s) - m) / s): at t = 0 all A, at t = 1 all B, for every softness.
    """
    m = _sampled(field, *a.shape[:2])
    if softness <= 0:
        out = a.copy()
        _copy_where(out, b, m < t)
        return out
    edge = t * (1.0 + softness)
    if len(m) > 1 and m.shape[1] > 1:
        out = np.empty_like(a)
        lerp_u8(a, b, partial(_smooth, torch.from_numpy(m), edge, softness), out)
        return out
    return _straight_wipe(m, a, b, edge, softness)


def _smooth(m: torch.Tensor, edge: float, softness: float, rows: slice) -> torch.Tensor:
    weight = ((edge - m[rows if len(m) > 1 else slice(None)]) / softness).clamp_(0.0, 1.0)
    return (weight * weight * (3.0 - 2.0 * weight))[..., None]


def _straight_wipe(
    m: np.ndarray, a: np.ndarray, b: np.ndarray, edge: float, softness: float
) -> np.ndarray:
    """One weight for a whole row or column: blocks are copied, only the soft edge is mixed."""
    out = a.copy()
    weight = (edge - m) / softness
    _copy_where(out, b, weight >= 1.0)
    soft = (weight > 0.0) & (weight < 1.0)
    rows, columns = _extent(soft.any(axis=1), a.shape[0]), _extent(soft.any(axis=0), a.shape[1])
    part = m[rows if len(m) > 1 else ..., :][:, columns if m.shape[1] > 1 else ...]
    band = np.empty_like(out[rows, columns])
    lerp_u8(
        np.ascontiguousarray(a[rows, columns]),
        np.ascontiguousarray(b[rows, columns]),
        partial(_smooth, torch.from_numpy(np.ascontiguousarray(part)), edge, softness),
        band,
    )
    out[rows, columns] = band
    return out


def _extent(line: np.ndarray, whole: int) -> slice:
    """From the first to the last True; all of it where the line stands for a whole axis."""
    found = np.flatnonzero(line)
    if not len(found):
        return slice(0, 0)
    return slice(0, whole) if len(line) == 1 else slice(int(found[0]), int(found[-1]) + 1)


def _copy_where(out: np.ndarray, picture: np.ndarray, where: np.ndarray) -> None:
    """out[where] = picture[where]; straight edges are one block copy."""
    if where.shape[0] == 1:
        columns = _run(where[0])
        out[:, columns] = picture[:, columns]
    elif where.shape[1] == 1:
        rows = _run(where[:, 0])
        out[rows] = picture[rows]
    else:
        np.copyto(out, picture, where=where[..., None])


def _run(chosen: np.ndarray) -> slice | np.ndarray:
    """The chosen positions, as a slice where they are all neighbours."""
    found = np.flatnonzero(chosen)
    if len(found) and found[-1] - found[0] + 1 == len(found):
        return slice(int(found[0]), int(found[-1]) + 1)
    return found


def _circle(u: np.ndarray, v: np.ndarray, aspect: float) -> np.ndarray:
    radius = np.hypot((u - 0.5) * aspect, v - 0.5)
    return radius / radius.max()


TRANSITIONS = {
    kind.name: kind
    for kind in (
        TransitionKind("cut", "the next shot is there at once", None),
        TransitionKind("crossfade", "one shot dissolves into the next", crossfade),
        TransitionKind("fade_black", "down to black, up again", partial(fade_through, 0)),
        TransitionKind("fade_white", "up to white, down again", partial(fade_through, 255)),
        TransitionKind(
            "wipe_left",
            "an edge travels to the left",
            partial(field_wipe, lambda u, v, aspect: 1.0 - u),
        ),
        TransitionKind(
            "wipe_right",
            "an edge travels to the right",
            partial(field_wipe, lambda u, v, aspect: u),
        ),
        TransitionKind(
            "wipe_up",
            "an edge travels upwards",
            partial(field_wipe, lambda u, v, aspect: 1.0 - v),
        ),
        TransitionKind(
            "wipe_down",
            "an edge travels downwards",
            partial(field_wipe, lambda u, v, aspect: v),
        ),
        TransitionKind(
            "circle_open", "a circle grows from the middle", partial(field_wipe, _circle)
        ),
    )
}


def transition_kind(name: str) -> TransitionKind:
    """
    Raises:
        VideoError: no transition has that name.
    """
    if name not in TRANSITIONS:
        raise VideoError(f"Unknown transition {name!r}: use one of {', '.join(TRANSITIONS)}.")
    return TRANSITIONS[name]


def blend(a: np.ndarray, b: np.ndarray, transition: Transition, progress: float) -> np.ndarray:
    """The picture at `progress` (0, 1) of `transition` from picture a to picture b."""
    mix = transition_kind(transition.kind).mix
    t = ease(transition.easing, progress)
    if mix is None or t >= 1.0:
        return b
    return a if t <= 0.0 else mix(a, b, t, transition.softness)
