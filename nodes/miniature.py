"""Nodes of the menu section troupe/scene that bring the miniature: models and cast, in the pack."""

import numpy as np
import torch
from comfy_api.v0_0_2 import io, ui
from PIL import Image

from ..conditioning.pose import read_pose_files, write_poses
from ..miniature import SHIPPED
from .runtime.miniature import DANCES, NAME, cast_file, load_miniature
from .runtime.types import Dataset, IPAdapter, PoseKeypoint

CATEGORY = "troupe/scene"
MOST_FRAMES = 12  # of a shipped dance


class TroupeLoadMiniature(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeLoadMiniature",
            display_name="Load Miniature",
            category=CATEGORY,
            search_aliases=["nano", "example models", "demo", "no download", "checkpoint"],
            description="A miniature of SDXL's family that comes with this pack: checkpoint, "
            "openpose ControlNet, IP-Adapter and image encoder, 29 MB in all, quick on any CPU. It "
            "knows one drawn world of 128 pixels: to see how the nodes work, not for pictures of "
            "your own.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The UNet."),
                io.Clip.Output(display_name="CLIP", tooltip="Both text encoders."),
                io.Vae.Output(display_name="VAE", tooltip="The autoencoder (TAESD)."),
                io.ControlNet.Output(display_name="CONTROL_NET", tooltip="For openpose pictures."),
                IPAdapter.Output(display_name="IPADAPTER", tooltip="IP-Adapter Plus."),
                io.ClipVision.Output(
                    display_name="CLIP_VISION", tooltip="The image encoder of the IP-Adapter."
                ),
                io.Combo.Output(
                    display_name="checkpoint",
                    options=[NAME],
                    tooltip="The checkpoint's name, for Train LoRA's input of that name.",
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_miniature(), NAME)


class TroupeMiniatureCast(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeMiniatureCast",
            display_name="Miniature Cast",
            category=CATEGORY,
            search_aliases=["example pictures", "demo", "sample inputs"],
            description="What the miniature film is made of, from this pack: pictures of a "
            "character to train on, an outfit, a place, and four dances. With models and pictures "
            "of your own: Load Dataset, Load Image and Load Pose.",
            inputs=[
                io.Int.Input(
                    "frames",
                    default=MOST_FRAMES,
                    min=1,
                    max=MOST_FRAMES,
                    optional=True,
                    tooltip="Frames of each dance; fewer are made in less time.",
                ),
            ],
            outputs=[
                Dataset.Output(
                    display_name="dataset",
                    tooltip="Twelve pictures of somebody the miniature has never seen, and twelve "
                    "of others with the same captions.",
                ),
                io.Image.Output(display_name="attire", tooltip="An outfit, for Attire."),
                io.Image.Output(display_name="background", tooltip="A place, for Background."),
                *(
                    PoseKeypoint.Output(
                        display_name=f"dance {n}", tooltip="Poses on a canvas of 128 x 128 pixels."
                    )
                    for n in range(1, DANCES + 1)
                ),
            ],
        )

    @classmethod
    def execute(cls, frames: int = MOST_FRAMES) -> io.NodeOutput:
        # here, so that Load Miniature does not need what only training needs
        from ..training.dataset import read_dataset
        from .runtime.datasets import contact_sheet_of

        dataset = read_dataset(cast_file(""), resolution=SHIPPED.resolution)
        pictures = [_picture(f"_{role}.png") for role in ("attire", "background")]
        dances = [
            write_poses(read_pose_files([cast_file(f"_dance_{n}.json")])[:frames])
            for n in range(1, DANCES + 1)
        ]
        sheet = contact_sheet_of(dataset, SHIPPED.resolution)
        return io.NodeOutput(dataset, *pictures, *dances, ui=ui.PreviewImage(sheet))


def _picture(name: str) -> torch.Tensor:
    """(1, H, W, 3) in [0, 1]"""
    with Image.open(cast_file(name)) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
    return torch.from_numpy(pixels)[None]


NODES: list[type[io.ComfyNode]] = [TroupeLoadMiniature, TroupeMiniatureCast]
