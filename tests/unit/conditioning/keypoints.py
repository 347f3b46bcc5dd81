"""Frames of POSE_KEYPOINT for the tests of the reader."""

import numpy as np

from conditioning.pose import PARTS

W, H = 640, 480


def triples(count: int, seed: int, c: float | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = np.column_stack(
        [rng.uniform(5, W - 5, count), rng.uniform(5, H - 5, count), rng.uniform(0.1, 1, count)]
    )
    if c is not None:
        points[:, 2] = c
    return points.astype(np.float32)


def flat(points: np.ndarray) -> list[float]:
    return points.astype(float).ravel().tolist()


def whole_person(c: float | None = None) -> dict[str, np.ndarray]:
    return {part.field: triples(part.points, i, c) for i, part in enumerate(PARTS)}


def frame_dict(*people: dict, **more) -> dict:
    return {"people": list(people), "canvas_width": W, "canvas_height": H, **more}


def person_dict(parts: dict[str, np.ndarray]) -> dict:
    return {part.key: flat(parts[part.field]) for part in PARTS if part.field in parts}
