"""Finding people in pictures: OpenPose's networks on a picture of any size.

Bodies are searched at a fixed short side, hands and faces in crops of the full picture. All
positions come back in pixels of the picture that was given, all confidences as the networks gave
them: nothing is divided by a padded size on the way.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import PoseError
from .model import Person, PoseFrame
from .openpose import load_detector, open_pose_module

SEARCH_SIDE_PX = 512  # OpenPose's peak filter (sigma 3 px) is meant for about this size
_LONG_SIDE_PX = 2048
_MOST_STRETCHED = 16  # the network needs some pixels across even for a one-pixel strip
_FACE_NETWORK_PX = 384
_FACE_THRESHOLD = 0.05
_LEAST_CONFIDENCE = 0.01  # a found point is never written as missing


@dataclass(frozen=True, eq=False)
class PoseDetector:
    """OpenPose's body network, with those for hands and faces where they are wanted."""

    body: Any
    hand: Any = None
    face: Any = None

    def __call__(self, picture: np.ndarray, search_side_px: int = SEARCH_SIDE_PX) -> PoseFrame:
        """The people in `picture`.

        Args:
            picture: (H, W, 3) uint8 RGB.
            search_side_px: the short side to which the picture is scaled to search for bodies.

        Raises:
            PoseError: the picture has another shape.
        """
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise PoseError(f"A picture must be (height, width, 3), got {picture.shape}.")
        height, width = picture.shape[:2]
        people = []
        for body in self._bodies(picture, search_side_px):
            parts: dict[str, np.ndarray] = {"body": body}
            if self.hand is not None:
                parts.update(self._hands(picture, body))
            if self.face is not None:
                face = self._face(picture, body)
                parts.update({} if face is None else {"face": face})
            people.append(Person(**parts))
        return PoseFrame(tuple(people), width, height)

    def _bodies(self, picture: np.ndarray, search_side_px: int) -> Iterator[np.ndarray]:
        """(18, 3) per person, in pixels of `picture`."""
        height, width = picture.shape[:2]
        scale = min(search_side_px / min(height, width), _LONG_SIDE_PX / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = _at_least(_resized(picture, size), max(size) // _MOST_STRETCHED)
        with torch.no_grad():
            candidates, people = self.body(_bgr(small))
        to_picture = np.array([width / size[0], height / size[1]])
        for person in people:
            body = np.zeros((18, 3))
            for joint, index in enumerate(person[:18].astype(int)):
                if index >= 0:
                    # a peak is a pixel index: its middle, scaled, is the position
                    body[joint, :2] = (candidates[index, :2] + 0.5) * to_picture
                    body[joint, 2] = np.clip(candidates[index, 2], _LEAST_CONFIDENCE, 1.0)
            yield body

    def _hands(self, picture: np.ndarray, body: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        boxes = open_pose_module("util").handDetect(_body_result(body), picture)
        for x, y, side, is_left in boxes:
            crop = picture[y : y + side, x : x + side]
            if crop.size == 0:
                continue
            with _captured(self.hand.model) as heatmaps, torch.no_grad():
                peaks = np.asarray(self.hand(_bgr(crop)))
            points = np.zeros((21, 3))
            found = peaks.any(axis=1)  # the network's decoder writes 0, 0 for a missing point
            points[found, :2] = peaks[found] + (x + 0.5, y + 0.5)
            points[found, 2] = _heat(heatmaps, peaks, crop.shape)[found]
            if found.any():
                yield ("left_hand" if is_left else "right_hand"), points

    def _face(self, picture: np.ndarray, body: np.ndarray) -> np.ndarray | None:
        box = open_pose_module("util").faceDetect(_body_result(body), picture)
        if box is None:
            return None
        x, y, side = box
        crop = picture[y : y + side, x : x + side]
        if crop.size == 0:
            return None
        side_px = _FACE_NETWORK_PX
        heat = self.face(_bgr(_resized(crop, (side_px, side_px))).astype(np.float32))[:70]
        best = heat.reshape(70, -1).argmax(axis=1)
        score = heat.reshape(70, -1).max(axis=1)
        index = np.column_stack([best % side_px, best // side_px])
        scale = np.array([crop.shape[1], crop.shape[0]]) / side_px
        points = np.column_stack([(index + 0.5) * scale + (x, y), np.minimum(score, 1.0)])
        points[score <= _FACE_THRESHOLD] = 0.0
        return points if points.any() else None


def load_pose_detector(
    body: Path,
    hand: Path | None = None,
    face: Path | None = None,
    device: str | torch.device = "cpu",
) -> PoseDetector:
    """A detector with the networks in these weight files; see `load_detector` for errors."""
    paths = {"body": body, "hand": hand, "face": face}
    return PoseDetector(
        **{part: load_detector(part, path, device) for part, path in paths.items() if path}
    )


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`picture` at `size` (width, height), filtered when it becomes smaller."""
    if size == (picture.shape[1], picture.shape[0]):
        return picture
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _at_least(picture: np.ndarray, side_px: int) -> np.ndarray:
    """`picture` extended to the right and below, where that moves no position."""
    below, right = (max(0, side_px - side) for side in picture.shape[:2])
    return np.pad(picture, ((0, below), (0, right), (0, 0)), mode="edge")


def _bgr(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[:, :, ::-1])


def _body_result(body: np.ndarray) -> Any:
    """`body` as controlnet-aux passes it around, in pixels of the full picture."""
    module = open_pose_module("body")
    points = [
        module.Keypoint(x=float(x), y=float(y), score=float(c)) if c else None for x, y, c in body
    ]
    return module.BodyResult(points, total_score=0.0, total_parts=len(points))


@contextmanager
def _captured(network: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collects what `network` returns, because the decoder for hands drops the confidences."""
    outputs: list[torch.Tensor] = []
    hook = network.register_forward_hook(lambda _m, _i, output: outputs.append(output.cpu()))
    try:
        yield outputs
    finally:
        hook.remove()


def _heat(
    heatmaps: list[torch.Tensor], peaks: np.ndarray, crop_shape: tuple[int, ...]
) -> np.ndarray:
    """(21,) mean over the network's passes of the heat at `peaks`, clipped to 0.01 .. 1."""
    total = np.zeros(len(peaks))
    for heatmap in heatmaps:
        maps = heatmap[0].numpy()
        rows = (peaks[:, 1] * maps.shape[1] // crop_shape[0]).clip(0, maps.shape[1] - 1)
        columns = (peaks[:, 0] * maps.shape[2] // crop_shape[1]).clip(0, maps.shape[2] - 1)
        total += maps[np.arange(len(peaks)), rows, columns]
    return np.clip(total / max(len(heatmaps), 1), _LEAST_CONFIDENCE, 1.0)
