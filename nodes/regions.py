"""The node that turns poses into masks."""

from comfy_api.v0_0_2 import io, ui

from ..conditioning import ORDERS, REGIONS, Margins, region_overlay, regions_from_poses
from ..conditioning.pose import FITS, read_poses
from .runtime.types import PoseKeypoint, Regions

CATEGORY = "troupe/pose"
DEFAULTS = Margins()
FEATHER = 0.025
PREVIEW_PX, PREVIEW_FRAMES = 384, 4
MEANINGS = {
    "background": "Everything that is nobody.",
    "head": "Heads with hair, down to the collar.",
    "hands": "Hands from the wrist on.",
    "upper": "Torsos and arms, above the waist.",
    "lower": "Hips and legs.",
    "feet": "Feet from the ankle on.",
    "person": "Everybody: all but the background.",
    "outfit": "What is clothed: upper, lower and feet.",
}


def _side(name: str) -> io.Input:
    return io.Int.Input(
        name,
        default=0,
        min=0,
        max=8192,
        step=8,
        optional=True,
        tooltip=f"The {name} of the masks in pixels; 0 takes the pose's own canvas.",
    )


def _room(name: str, default: float, maximum: float, tooltip: str) -> io.Input:
    return io.Float.Input(
        name, default=default, min=0.0, max=maximum, step=0.005, optional=True, advanced=True,
        tooltip=tooltip,
    )  # fmt: skip


class TroupePoseRegions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupePoseRegions",
            display_name="Pose Regions",
            category=CATEGORY,
            search_aliases=["pose to mask", "body mask", "regional mask", "segment pose"],
            description="Soft masks of heads, hands, clothes, feet and background from skeletons, "
            "before any picture exists. In every pixel the parts add up to 1.",
            inputs=[
                PoseKeypoint.Input("pose", tooltip="One pose for each frame."),
                _side("width"),
                _side("height"),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default=FITS[0],
                    optional=True,
                    tooltip="How a pose of other proportions is placed: contain shows all of it, "
                    "cover fills the canvas, stretch distorts.",
                ),
                _room("feather", FEATHER, 0.2, "Half width of soft edges, in standing heights."),
                _room(
                    "clothes",
                    DEFAULTS.clothes,
                    4.0,
                    "Room for clothes around limbs and torso, as a part of their thickness.",
                ),
                _room("hair", DEFAULTS.hair, 4.0, "Room for hair, as a part of the head's size."),
                _room("waist", DEFAULTS.waist, 1.0, "Where upper meets lower: 0 hips, 1 neck."),
                io.Combo.Input(
                    "order",
                    options=list(ORDERS),
                    default=ORDERS[0],
                    optional=True,
                    advanced=True,
                    tooltip="Who covers whom: whoever stands lower in the picture, or the order of "
                    "people in the keypoints.",
                ),
            ],
            outputs=[
                Regions.Output(
                    display_name="regions", tooltip="All of them, for the regions input of nodes."
                ),
                *(io.Mask.Output(display_name=name, tooltip=MEANINGS[name]) for name in REGIONS),
            ],
        )

    @classmethod
    def execute(
        cls, pose, width=0, height=0, fit=FITS[0], feather=FEATHER, clothes=DEFAULTS.clothes,
        hair=DEFAULTS.hair, waist=DEFAULTS.waist, order=ORDERS[0],
    ) -> io.NodeOutput:  # fmt: skip
        regions = regions_from_poses(
            read_poses(pose, "pose"),
            width,
            height,
            fit=fit,
            feather=feather,
            order=order,
            margins=Margins(clothes=clothes, hair=hair, waist=waist),
        )
        masks = regions.masks
        scale = min(1.0, PREVIEW_PX / max(regions.width, regions.height))
        size = (max(1, round(side * scale)) for side in (regions.width, regions.height))
        shown = region_overlay(regions.select(0, PREVIEW_FRAMES), *size)
        return io.NodeOutput(
            regions, *(masks[name] for name in REGIONS), ui=ui.PreviewImage(shown, cls=cls)
        )


NODES: list[type[io.ComfyNode]] = [TroupePoseRegions]
