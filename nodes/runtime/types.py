"""The pack's own socket types, each spelled once. Core's sockets are used wherever one exists."""

from typing import Any

from comfy_api.v0_0_2 import io


class CheckedOptions(dict[str, Any]):
    """Settings of a TrainingJob that a node of ours has checked; no prompt can hold one."""


Dataset = io.Custom("TROUPE_DATASET")  # training.Dataset
TrainingOptions = io.Custom("TROUPE_TRAINING_OPTIONS")  # CheckedOptions
PoseKeypoint = io.Custom("POSE_KEYPOINT")  # list of OpenPose frame dicts, as other packs use
Regions = io.Custom("TROUPE_REGIONS")  # conditioning.RegionSet
Reference = io.Custom("TROUPE_REFERENCE")  # conditioning.Reference
IPAdapter = io.Custom("IPADAPTER")  # {"image_proj": {...}, "ip_adapter": {...}}, as other packs use
Shot = io.Custom("TROUPE_SHOT")  # video.Shot
