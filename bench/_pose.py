"""Drawing a pose against controlnet-aux's drawing, whose pictures the ControlNets learned from."""

import colorsys
import sys
import types
from collections.abc import Iterator

import numpy as np

from conditioning.pose import Person, PoseFrame, draw_pose
from conditioning.pose.openpose import open_pose_module

from . import Row, alternate

SIDE = 1024
DRAWS = 40  # per timing: one takes about a millisecond


def _person() -> Person:
    """A whole person, hands and face included, of the size of a full-body picture."""
    rng = np.random.default_rng(0)
    body = np.array(
        [
            (0.50, 0.15), (0.50, 0.25), (0.40, 0.25), (0.35, 0.40), (0.33, 0.52), (0.60, 0.25),
            (0.65, 0.40), (0.67, 0.52), (0.44, 0.52), (0.43, 0.72), (0.42, 0.92), (0.56, 0.52),
            (0.57, 0.72), (0.58, 0.92), (0.48, 0.13), (0.52, 0.13), (0.46, 0.14), (0.54, 0.14),
        ]
    )  # fmt: skip

    def part(centre: np.ndarray, count: int) -> np.ndarray:
        spread = rng.normal(0, 0.02, (count, 2))
        return np.column_stack([(centre + spread) * SIDE, np.ones(count)])

    everything = np.column_stack([body * SIDE, np.ones(18)])
    return Person(everything, part(body[0], 70), part(body[7], 21), part(body[4], 21))


def _their_drawing(person: Person):
    if "matplotlib" not in sys.modules:  # they use one function of it and do not require it
        colours = types.ModuleType("matplotlib.colors")
        colours.hsv_to_rgb = lambda hsv: np.array(colorsys.hsv_to_rgb(*hsv))
        package = types.ModuleType("matplotlib")
        package.colors = colours
        sys.modules |= {"matplotlib": package, "matplotlib.colors": colours}
    body = open_pose_module("body")
    package = sys.modules[body.__package__]

    def points(array: np.ndarray) -> list:
        return [body.Keypoint(float(x) / SIDE, float(y) / SIDE) for x, y, _ in array]

    pose = package.PoseResult(
        body.BodyResult(points(person.body), 1.0, 18),
        *(points(part) for part in (person.left_hand, person.right_hand, person.face)),
    )
    return lambda: [package.draw_poses([pose], SIDE, SIDE) for _ in range(DRAWS)]


def draw_rows() -> Iterator[Row]:
    """One person with hands and face at 1024 x 1024: theirs / ours, so above 1 we are faster."""
    person = _person()
    frame = PoseFrame((person,), SIDE, SIDE)
    theirs = _their_drawing(person)
    ours, peer = alternate(
        lambda: [draw_pose(frame, style="openpose") for _ in range(DRAWS)], theirs, runs=15
    )
    yield Row(
        "conditioning.draw_vs_controlnet_aux",
        1000 * ours / DRAWS,
        "ms",
        "controlnet-aux 0.0.10 draw_poses",
        peer / ours,
    )
