"""Nodes of the menu section troupe/scene."""

from comfy_api.v0_0_2 import io, ui

from ..conditioning import SceneOptions, plan_scene, preview_sheet
from ..conditioning.pose import DEFAULT_STYLE, FITS, STYLES, read_poses
from . import cast
from .runtime import scene
from .runtime.ip_adapter import vision_in
from .runtime.types import IPAdapter, PoseKeypoint, Reference, Regions

CATEGORY = "troupe/scene"
DEFAULTS = SceneOptions()


def _fraction(name: str, default: float, tooltip: str, advanced: bool = False) -> io.Input:
    return io.Float.Input(
        name, default=default, min=0.0, max=1.0, step=0.01, optional=True, tooltip=tooltip,
        advanced=advanced,
    )  # fmt: skip


def _text(name: str, tooltip: str, **more) -> io.Input:
    return io.String.Input(
        name,
        default="",
        multiline=True,
        dynamic_prompts=True,
        placeholder=name.replace("_", " "),
        tooltip=tooltip,
        **more,
    )


def _side(name: str) -> io.Input:
    return io.Int.Input(
        name,
        default=1024,
        min=64,
        max=8192,
        step=8,
        tooltip=f"The {name} of the pictures in pixels, a multiple of 8. SDXL is at its best near "
        "1024 x 1024, 832 x 1216 or 1216 x 832.",
    )


def _socket_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="An SDXL model, with LoRAs applied if you like."),
        io.Clip.Input("clip", tooltip="Its text encoders."),
        io.Vae.Input("vae", tooltip="Its VAE; encodes the background when that is a plate."),
        PoseKeypoint.Input(
            "pose",
            tooltip="One pose, or one for each frame: every pose becomes a control picture, a set "
            "of masks and a latent.",
        ),
    ]


def _reference_inputs() -> list[io.Input]:
    return [
        *(
            Reference.Input(role, optional=True, tooltip=f"From the node {role.capitalize()}.")
            for role in ("character", "attire", "background")
        ),
        io.ControlNet.Input(
            "control_net",
            optional=True,
            tooltip="An openpose ControlNet. Without it the pose only says where things go.",
        ),
        IPAdapter.Input(
            "ipadapter",
            optional=True,
            tooltip="From Load IP-Adapter or another pack's loader. Needed for references, except "
            "for a background that is a plate.",
        ),
        io.ClipVision.Input(
            "clip_vision",
            optional=True,
            tooltip="The image encoder the IP-Adapter was made for. Not needed with IPAdapter "
            "Plus' Unified Loader, which brings it along.",
        ),
        Regions.Input(
            "regions",
            optional=True,
            tooltip="From Pose Regions, to set the masks yourself. They must come from the same "
            "poses at the same width and height.",
        ),
    ]


def _detail_inputs() -> list[io.Input]:
    return [
        _text("person_prompt", "What holds for the people only.", optional=True),
        _text("outfit_prompt", "What holds for their clothes only.", optional=True),
        _text("background_prompt", "What holds for the background only.", optional=True),
        io.Float.Input(
            "pose_strength",
            default=1.0,
            min=0.0,
            max=2.0,
            step=0.05,
            optional=True,
            tooltip="ControlNet strength on the people. 0 leaves the ControlNet out.",
        ),
        _fraction("pose_start", 0.0, "From which part of the steps on the pose steers.", True),
        _fraction("pose_end", 1.0, "Up to which part of the steps the pose steers.", True),
        io.Int.Input(
            "first_frame",
            default=0,
            min=0,
            max=1_000_000,
            optional=True,
            advanced=True,
            tooltip="Number of the first pose to use, counted from 0.",
        ),
        io.Int.Input(
            "frame_count",
            default=0,
            min=0,
            max=4096,
            optional=True,
            advanced=True,
            tooltip="How many poses to use; 0 means all that follow. A long sequence can be made "
            "in several runs: with one seed, each frame has the same noise in all of them, also "
            "with ancestral and SDE samplers.",
        ),
        _fraction(
            "pose_outside",
            DEFAULTS.pose_outside,
            "ControlNet strength away from people, as a part of pose_strength. The black around a "
            "skeleton asks for an empty background; 1 is the plain ControlNet.",
            advanced=True,
        ),
        io.Combo.Input(
            "pose_style",
            options=list(STYLES),
            default=DEFAULT_STYLE,
            optional=True,
            advanced=True,
            tooltip="How skeletons are drawn: as the ControlNet was trained.",
        ),
        io.Combo.Input(
            "pose_fit",
            options=list(FITS),
            default=DEFAULTS.fit,
            optional=True,
            advanced=True,
            tooltip="How a pose of other proportions is placed: contain shows all of it, cover "
            "fills the canvas, stretch distorts.",
        ),
        io.Float.Input(
            "region_strength",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.05,
            optional=True,
            advanced=True,
            tooltip="Weight of the region prompts beside the prompt, each in its region.",
        ),
        _fraction(
            "plate_reach",
            DEFAULTS.plate_reach,
            "How far around people a plate is painted over, in standing heights.",
            advanced=True,
        ),
        io.Boolean.Input(
            "shared_noise",
            default=DEFAULTS.shared_noise,
            optional=True,
            advanced=True,
            tooltip="Give every frame the same noise, so that what the pose does not change stays "
            "much the same from frame to frame: steadier films. Off, frames differ more freely.",
        ),
    ]


class TroupeComposeScene(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeComposeScene",
            display_name="Compose Scene",
            category=CATEGORY,
            search_aliases=["regional prompt", "pose control", "ip adapter", "attention mask"],
            description="Bring prompt, pose, character, attire and background together. Soft masks "
            "are made from the skeleton, and the same masks say where references, prompts and "
            "ControlNet act. A batch of poses gives a batch of pictures, each with its own masks.",
            inputs=[
                *_socket_inputs(),
                _text("prompt", "What holds for the whole picture."),
                _text("negative", "What to avoid, everywhere."),
                _side("width"),
                _side("height"),
                *_reference_inputs(),
                *_detail_inputs(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the references."),
                io.Conditioning.Output(display_name="positive", tooltip="For the sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="For the sampler."),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="One for each frame: empty, or the plate with a mask of the people.",
                ),
                Regions.Output(display_name="regions", tooltip="The masks that were used."),
                io.Image.Output(
                    display_name="preview",
                    tooltip="A sheet of poses, regions, and references as the encoder sees them.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, clip, vae, pose, prompt, negative, width, height,
        character=None, attire=None, background=None, control_net=None, ipadapter=None,
        clip_vision=None, regions=None, person_prompt="", outfit_prompt="", background_prompt="",
        pose_strength=1.0, pose_start=0.0, pose_end=1.0, first_frame=0, frame_count=0,
        pose_outside=DEFAULTS.pose_outside, pose_style=DEFAULT_STYLE, pose_fit=DEFAULTS.fit,
        region_strength=1.0, plate_reach=DEFAULTS.plate_reach, shared_noise=DEFAULTS.shared_noise,
    ) -> io.NodeOutput:  # fmt: skip
        references = scene.named_references(
            character=character, attire=attire, background=background
        )
        vision = clip_vision or vision_in(ipadapter)
        models = scene.Models(model, clip, vae, control_net, ipadapter, vision)
        control = scene.Control(pose_strength, pose_start, pose_end)
        scene.check(models, control, references)
        plan = plan_scene(
            read_poses(pose, "pose"),
            width,
            height,
            references=references,
            prompts={
                "person": person_prompt,
                "outfit": outfit_prompt,
                "background": background_prompt,
            },  # fmt: skip
            regions=regions,
            options=SceneOptions(
                first_frame=first_frame,
                frame_count=frame_count,
                fit=pose_fit,
                pose_style=pose_style,
                pose_outside=pose_outside,
                plate_reach=plate_reach,
                shared_noise=shared_noise,
            ),  # fmt: skip
        )
        if control_net is None:
            plan = plan.with_note(
                "No ControlNet is connected: the pose says where things go, not how people stand."
            )
        sheet = preview_sheet(plan)
        outputs = scene.compose(plan, models, control, prompt, negative, region_strength)
        shown = ui.PreviewImage(sheet, cls=cls).as_dict() | {"text": list(plan.notes)}
        return io.NodeOutput(*outputs, plan.regions, sheet, ui=shown)


NODES: list[type[io.ComfyNode]] = [*cast.NODES, TroupeComposeScene]
