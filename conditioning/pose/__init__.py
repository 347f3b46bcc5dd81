"""Poses: OpenPose keypoints in, keypoints or control pictures out.

The way of a pose: `read_poses` turns any dialect of POSE_KEYPOINT (JSON text, dict, list) into
`PoseFrame`s of `Person`s: pixels of the frame's canvas, real confidences. `resize_pose` and
`transform_pose` move them to another canvas. `draw_pose` paints the control picture that openpose
ControlNets were trained on, `write_poses` makes POSE_KEYPOINT again. A `PoseDetector` finds the
frames in pictures; `read_pose_files` reads them from disk.
"""

from ..errors import PoseError
from .detect import PoseDetector, load_pose_detector
from .draw import DEFAULT_STYLE, DEFAULT_THRESHOLD, STYLES, draw_pose, draw_poses
from .files import pose_files_in, read_pose_files
from .model import BODY_LIMBS, BODY_NAMES, FEET_NAMES, HAND_EDGES, PARTS, Person, PoseFrame
from .openpose import WEIGHT_FILES, WEIGHTS_SOURCE
from .reader import UNITS, read_poses
from .transform import FITS, fit_matrix, resize_pose, transform_points, transform_pose
from .writer import CONFIDENCES, write_poses

__all__ = [
    "BODY_LIMBS",
    "BODY_NAMES",
    "CONFIDENCES",
    "DEFAULT_STYLE",
    "DEFAULT_THRESHOLD",
    "FEET_NAMES",
    "FITS",
    "HAND_EDGES",
    "PARTS",
    "STYLES",
    "UNITS",
    "WEIGHTS_SOURCE",
    "WEIGHT_FILES",
    "Person",
    "PoseDetector",
    "PoseError",
    "PoseFrame",
    "draw_pose",
    "draw_poses",
    "fit_matrix",
    "load_pose_detector",
    "pose_files_in",
    "read_pose_files",
    "read_poses",
    "resize_pose",
    "transform_points",
    "transform_pose",
    "write_poses",
]
