"""The openpose ControlNet: its pictures, and a form of it that is quick to train.

It learns together with the UNet (see unet.py). The original's hint encoder works on full pictures
with up to 256 channels and would cost more than the UNet; a stick figure needs a quarter of them.
miniature.widen fills the rest with zeros, which changes nothing: SiLU(0) = 0.
"""

import dataclasses

import torch

from conditioning import regions_from_poses
from conditioning.pose import Person, PoseFrame, draw_pose
from miniature import modules
from miniature.modules import NanoConfig
from miniature.widen import HINT_CHANNELS

from ..world import Pose


def control_picture(pose: Pose, size: tuple[int, int]) -> torch.Tensor:
    """(3, H, W) uint8: the skeleton as the pack draws it for a picture of (width, height)."""
    frame = PoseFrame((Person(pose.keypoints(size)),), *size)
    return torch.from_numpy(draw_pose(frame)).permute(2, 0, 1)


def hint(controls: torch.Tensor) -> torch.Tensor:
    """Control pictures (B, 3, H, W) uint8 as the ControlNet takes them, in the quickest layout."""
    return (controls.float() / 255).contiguous(memory_format=torch.channels_last)


def region_masks(pose: Pose, size: tuple[int, int], names: tuple[str, ...]) -> torch.Tensor:
    """(R, h, w) at latent size: the pack's soft regions of these names."""
    frame = PoseFrame((Person(pose.keypoints(size)),), *size)
    regions = regions_from_poses([frame])
    return torch.stack([regions.mask(name, size[0] // 8, size[1] // 8)[0] for name in names])


def build_narrow(config: NanoConfig):
    """The ControlNet with fewer channels in its hint encoder."""
    return modules.build_controlnet(dataclasses.replace(config, hint_channels=HINT_CHANNELS))
