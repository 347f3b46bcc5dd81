"""Stand-ins for OpenPose's networks that read coloured dots, and pictures that carry such dots.

They see what the real networks see (scaled, padded, BGR) and answer in the same layout, so what is
tested is everything around the networks: scaling, padding, crops, decoding, confidences.
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F

from conditioning.pose.openpose import WEIGHT_FILES, open_pose_module

# 18 colours that stay apart when a dot's rim mixes with the grey ground.
COLOURS = [c for c in itertools.product((0, 127, 255), repeat=3) if len(set(c)) > 1][:18]
HAND_DOT = (255, 255, 255)
FACE_DOT = (255, 255, 0)
GROUND = (64, 64, 64)
assert FACE_DOT not in COLOURS

# OpenPose's output: pairs of joints (1-based) and the first of two affinity channels of each.
LIMB_CHANNELS = {
    (2, 3): 12, (2, 6): 20, (3, 4): 14, (4, 5): 16, (6, 7): 22, (7, 8): 24, (2, 9): 0,
    (9, 10): 2, (10, 11): 4, (2, 12): 6, (12, 13): 8, (13, 14): 10, (2, 1): 28, (1, 15): 30,
    (15, 17): 34, (1, 16): 32, (16, 18): 36, (3, 17): 18, (6, 18): 26,
}  # fmt: skip


def heat_of(picture: torch.Tensor, colour: tuple[int, int, int]) -> torch.Tensor:
    """(h/8, w/8): a bell one cell wide around each dot of that colour, as a trained network's."""
    rgb = (picture[0] + 0.5) * 256
    wanted = torch.tensor(colour[::-1], dtype=torch.float32)[:, None, None]
    near = ((rgb - wanted).abs().amax(0) < 40).float()
    steps = torch.arange(-28, 29, dtype=torch.float32)
    for axis in (0, 1):
        # cell k covers input pixels 8 k .. 8 k + 7: its middle lies between two of them
        bell = torch.exp(-((steps[:, None] + 0.5) ** 2) / (2 * 8.0**2))
        kernel = bell[None, None] if axis == 0 else bell.T[None, None]
        pad = (0, 0, 24, 28) if axis == 0 else (24, 28, 0, 0)
        stride = (8, 1) if axis == 0 else (1, 8)
        near = F.conv2d(F.pad(near[None, None], pad), kernel, stride=stride)[0, 0]
    near = near[: picture.shape[2] // 8, : picture.shape[3] // 8]
    return near / near.max().clamp(min=1.0)


class _Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.device_mark = torch.nn.Parameter(torch.zeros(1))


class DotBody(_Net):
    """Heat for the 18 colours; affinities point from joint to joint of the first person."""

    def __init__(self, joints: np.ndarray, strength: float = 0.9):
        super().__init__()
        self.joints, self.strength = joints, strength

    def forward(self, picture):
        heat = torch.stack([self.strength * heat_of(picture, colour) for colour in COLOURS])
        affinities = torch.zeros(38, *heat.shape[1:])
        for (a, b), channel in LIMB_CHANNELS.items():
            delta = self.joints[b - 1] - self.joints[a - 1]
            unit = delta / max(np.hypot(*delta), 1e-9)
            affinities[channel] = float(unit[0])
            affinities[channel + 1] = float(unit[1])
        return affinities[None], torch.cat([heat, torch.zeros_like(heat[:1])])[None]


class DotHand(_Net):
    """All joints but the last lie on the white dot."""

    def forward(self, picture):
        heat = 0.7 * heat_of(picture, HAND_DOT).expand(22, -1, -1).clone()
        heat[20:] = 0
        return heat[None]


class DotFace(_Net):
    """All points but number 5 lie on the yellow dot."""

    def forward(self, picture):
        heat = 0.6 * heat_of(picture, FACE_DOT).expand(71, -1, -1).clone()
        heat[5] = 0
        return [heat[None]]


# A body in units of its own box, with room between the joints for the dots.
BODY = np.array(
    [
        (0.50, 0.14), (0.50, 0.28), (0.36, 0.28), (0.20, 0.32), (0.06, 0.40), (0.64, 0.28),
        (0.80, 0.32), (0.94, 0.40), (0.42, 0.56), (0.40, 0.76), (0.38, 0.96), (0.58, 0.56),
        (0.60, 0.76), (0.62, 0.96), (0.44, 0.07), (0.56, 0.07), (0.37, 0.12), (0.63, 0.12),
    ]
)  # fmt: skip


def dot_picture(
    size: tuple[int, int], boxes: list[tuple[float, float, float, float]], radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 with a dotted body in each box (x, y, w, h); joints (people, 18, 2) in px."""
    joints = np.array([BODY * (w, h) + (x, y) for x, y, w, h in boxes])
    picture = np.full((size[1], size[0], 3), GROUND, np.uint8)
    for person in joints:
        for colour, point in zip(COLOURS, person, strict=True):
            dot(picture, point, radius, colour)
    return picture, joints


def dot(picture: np.ndarray, point, radius: float, colour: tuple[int, int, int]) -> None:
    """Paint the pixels whose centres are within `radius` of `point`."""
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]] + 0.5
    picture[np.hypot(x - point[0], y - point[1]) <= radius] = colour


def published(part: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the names of the published files, which spell no blocks."""
    module = open_pose_module(WEIGHT_FILES[part].module)
    with torch.device("meta"):
        network = getattr(module, WEIGHT_FILES[part].network)()
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for key, tensor in network.state_dict().items():
        fan_in = max(1, tensor[0].numel())
        values = torch.empty(tensor.shape, dtype=torch.float16).normal_(generator=rng)
        state[key if part == "face" else key.split(".", 1)[1]] = values * (0.2 / fan_in**0.5)
    return state
