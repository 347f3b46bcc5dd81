"""Nodes of the menu section troupe/pose."""

from pathlib import Path

import comfy.model_management
import comfy.utils
import torch
from comfy_api.v0_0_2 import io, ui

from ..conditioning.pose import (
    CONFIDENCES,
    DEFAULT_STYLE,
    DEFAULT_THRESHOLD,
    FITS,
    STYLES,
    UNITS,
    WEIGHT_FILES,
    WEIGHTS_SOURCE,
    PoseError,
    draw_pose,
    load_pose_detector,
    read_pose_files,
    read_poses,
    write_poses,
)
from .runtime.combos import listed, refuse_hint
from .runtime.listings import model_files
from .runtime.paths import PathError, check_prefix, save_location, save_numbered
from .runtime.pose_files import (
    MODEL_FOLDER,
    NO_MODEL,
    USUAL,
    listed_poses,
    pose_paths,
    weight_file,
    write_json,
)
from .runtime.prefixes import with_dates
from .runtime.types import PoseKeypoint

CATEGORY = "troupe/pose"
NO_POSE = "put a .json file into input/, or upload one"
NO_WEIGHTS = f"put {WEIGHT_FILES['body'].file_name} into models/pose"
DETECTOR_BYTES = 1 << 30  # weights and activations of the three networks, about
MAX_SIDE_PX = 16384


def _pose_input() -> io.Input:
    return PoseKeypoint.Input(
        "pose",
        tooltip="Poses in the OpenPose format, one per picture: from Load Pose, Detect Pose or any "
        "node that outputs POSE_KEYPOINT.",
    )


def _side_input(name: str, tooltip: str, step: int = 8, advanced: bool = False) -> io.Input:
    return io.Int.Input(
        name,
        default=0,
        min=0,
        max=MAX_SIDE_PX,
        step=step,
        optional=True,
        advanced=advanced,
        tooltip=tooltip,
    )


def _checkpoint(progress: comfy.utils.ProgressBar) -> None:
    """One more frame is done: show it, and stop here if the user wants to."""
    progress.update(1)
    comfy.model_management.throw_exception_if_processing_interrupted()


class TroupeDetectPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = model_files(MODEL_FOLDER)
        return io.Schema(
            node_id="TroupeDetectPose",
            display_name="Detect Pose",
            category=CATEGORY,
            search_aliases=["openpose", "pose estimator", "keypoints", "preprocessor", "dwpose"],
            description="Find the people in each picture with OpenPose: joints, and hands and "
            "faces if their networks are chosen. Positions are pixels of the picture, with the "
            "confidence the network gave. Needs `pip install controlnet-aux` and weight files in "
            "models/pose; nothing is downloaded.",
            inputs=[
                io.Image.Input("image", tooltip="One picture or a batch; each gives one pose."),
                io.Combo.Input(
                    "body_model",
                    options=listed(files, NO_WEIGHTS),
                    default=WEIGHT_FILES["body"].file_name if files else NO_WEIGHTS,
                    tooltip=f"OpenPose's body network in models/pose, from {WEIGHTS_SOURCE}.",
                ),
                cls._extra_model("hand", files),
                cls._extra_model("face", files),
                io.Int.Input(
                    "search_side",
                    default=512,
                    min=128,
                    max=1024,
                    step=8,
                    optional=True,
                    advanced=True,
                    tooltip="Short side in pixels at which bodies are searched. Hands and faces "
                    "are always searched in the full picture.",
                ),
            ],
            outputs=[
                PoseKeypoint.Output(display_name="pose", tooltip="One frame of people per picture.")
            ],
        )

    @classmethod
    def _extra_model(cls, part: str, files: list[str]) -> io.Input:
        usual = WEIGHT_FILES[part].file_name
        return io.Combo.Input(
            f"{part}_model",
            options=[USUAL, NO_MODEL, *files],
            default=USUAL,
            optional=True,
            tooltip=f"OpenPose's {part} network in models/pose. auto: {usual} if it is there. "
            f"none: leave {part}s out.",
        )

    @classmethod
    def validate_inputs(cls, body_model=None, hand_model=None, face_model=None) -> bool | str:
        chosen = {"body": body_model, "hand": hand_model, "face": face_model}
        try:  # None: the value comes from another node
            refuse_hint(body_model)
            _weight_files({part: name for part, name in chosen.items() if name is not None})
        except (PathError, PoseError) as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, image, body_model, hand_model=USUAL, face_model=USUAL, search_side=512
    ) -> io.NodeOutput:
        files = _weight_files({"body": body_model, "hand": hand_model, "face": face_model})
        device = comfy.model_management.get_torch_device()
        comfy.model_management.free_memory(DETECTOR_BYTES, device)
        detector = load_pose_detector(**files, device=device)
        progress = comfy.utils.ProgressBar(len(image))
        frames = []
        for picture in image:
            levels = picture[..., :3].clamp(0, 1).mul(255).round()
            frames.append(detector(levels.to(torch.uint8).cpu().numpy(), search_side))
            _checkpoint(progress)
        return io.NodeOutput(write_poses(frames))


def _weight_files(chosen: dict[str, str]) -> dict[str, Path | None]:
    return {part: weight_file(name, part) for part, name in chosen.items()}


class TroupeLoadPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeLoadPose",
            display_name="Load Pose",
            category=CATEGORY,
            search_aliases=["openpose json", "keypoints", "pose file", "motion"],
            description="Read poses from an OpenPose JSON file in ComfyUI's input folder, or from "
            "a folder with one JSON file per frame. Understands what OpenPose, ComfyUI nodes and "
            "pose editors write, in pixels or fractions of the canvas.",
            inputs=[
                io.Combo.Input(
                    "pose_file",
                    options=listed(listed_poses(), NO_POSE),
                    tooltip="A .json file in ComfyUI's input folder, or a folder of them (ends "
                    "with /), whose files are read in natural order: 2 before 10. A name with "
                    "'[output]' behind it is read from the output folder.",
                ),
                _side_input("canvas_width", "Canvas width in pixels; 0 = as in the file.", 1, True),
                _side_input(
                    "canvas_height", "Canvas height in pixels; 0 = as in the file.", 1, True
                ),
                io.Combo.Input(
                    "units",
                    options=list(UNITS),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="What the numbers in the file are. auto: decided for each frame. "
                    "fractions: parts of the canvas. padded_fractions: parts of the canvas padded "
                    "to multiples of 64 pixels, as some OpenPose nodes write them.",
                ),
            ],
            outputs=[
                PoseKeypoint.Output(display_name="pose", tooltip="One frame per picture."),
                io.Int.Output(display_name="width", tooltip="Canvas width in pixels."),
                io.Int.Output(display_name="height", tooltip="Canvas height in pixels."),
                io.Int.Output(display_name="frame_count", tooltip="How many frames there are."),
            ],
        )

    @classmethod
    def validate_inputs(cls, pose_file=None) -> bool | str:
        try:
            if pose_file is not None:
                refuse_hint(pose_file)
                pose_paths(pose_file)
        except (PathError, PoseError) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, pose_file=None, **_) -> list:
        if pose_file is None:
            return []
        stats = [(path.name, path.stat()) for path in pose_paths(pose_file)]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]

    @classmethod
    def execute(cls, pose_file, canvas_width=0, canvas_height=0, units="auto") -> io.NodeOutput:
        canvas = (canvas_width or None, canvas_height or None)
        frames = read_pose_files(pose_paths(pose_file), units, canvas)
        first = frames[0]
        return io.NodeOutput(write_poses(frames), first.width, first.height, len(frames))


class TroupeSavePose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeSavePose",
            display_name="Save Pose",
            category=CATEGORY,
            search_aliases=["openpose json", "keypoints", "export pose"],
            description="Write poses to one OpenPose JSON file in ComfyUI's output folder. Load "
            "Pose, pose editors and other nodes read it; the numbers survive unchanged.",
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                _pose_input(),
                io.String.Input(
                    "filename_prefix",
                    default="pose/pose",
                    tooltip="Name of the file below the output folder, without number and .json. "
                    "Slashes make subfolders; %date:yyyy-MM-dd%, %width%, %NODE.WIDGET% and the "
                    "like work as in Save Image.",
                ),
                io.Combo.Input(
                    "confidence",
                    options=list(CONFIDENCES),
                    default="real",
                    optional=True,
                    advanced=True,
                    tooltip="real keeps each point's confidence. binary writes 1.0 for every point "
                    "that is there: some packs drop everything below 1.0.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None) -> bool | str:
        return check_prefix(filename_prefix)

    @classmethod
    def fingerprint_inputs(cls, filename_prefix=None, **_) -> str:
        return with_dates(filename_prefix or "")

    @classmethod
    def execute(cls, pose, filename_prefix, confidence="real") -> io.NodeOutput:
        frames = read_poses(pose, "pose")
        size = (int(frames[0].width), int(frames[0].height)) if frames else (0, 0)
        folder, stem, counter, subfolder = save_location(filename_prefix, cls.hidden, size=size)
        data = write_poses(frames, confidence)
        name = save_numbered(lambda path: write_json(path, data), folder, stem, counter, ".json")
        saved = ui.SavedResult(name, subfolder, io.FolderType.output)
        return io.NodeOutput(ui={"files": [saved], "text": [f"{len(frames)} frames in {name}"]})


class TroupeDrawPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        styles = "; ".join(f"{style.name}: {style.help}" for style in STYLES.values())
        return io.Schema(
            node_id="TroupeDrawPose",
            display_name="Draw Pose",
            category=CATEGORY,
            search_aliases=["openpose", "render pose", "skeleton", "control image"],
            description="Draw poses as control pictures for an openpose ControlNet, one per frame. "
            "Draw at the size you generate at: a resized picture has sticks of the wrong width.",
            inputs=[
                _pose_input(),
                _side_input("width", "Width of the pictures in pixels; 0 = the pose's canvas."),
                _side_input("height", "Height of the pictures in pixels; 0 = the pose's canvas."),
                io.Combo.Input(
                    "style",
                    options=list(STYLES),
                    default=DEFAULT_STYLE,
                    optional=True,
                    tooltip=f"How thick the sticks are. {styles}.",
                ),
                _toggle("hands", True, "Draw the fingers."),
                _toggle("face", True, "Draw the face as white points."),
                _toggle("feet", False, "Draw toes and heels. ControlNets were trained without."),
                io.Float.Input(
                    "threshold",
                    default=DEFAULT_THRESHOLD,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Leave out points whose confidence is lower.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="contain",
                    optional=True,
                    advanced=True,
                    tooltip="Where the proportions of canvas and picture differ: contain shows "
                    "all of the canvas, cover leaves no border, stretch distorts.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="One control picture per frame.")
            ],
        )

    @classmethod
    def execute(
        cls,
        pose,
        width=0,
        height=0,
        style=DEFAULT_STYLE,
        hands=True,
        face=True,
        feet=False,
        threshold=DEFAULT_THRESHOLD,
        fit="contain",
    ) -> io.NodeOutput:
        frames = read_poses(pose, "pose")
        width, height = width or frames[0].width, height or frames[0].height
        images = torch.empty((len(frames), height, width, 3), dtype=torch.float32)
        progress = comfy.utils.ProgressBar(len(frames))
        for image, frame in zip(images, frames, strict=True):
            drawn = draw_pose(frame, width, height, style, hands, face, feet, threshold, fit)
            torch.div(torch.from_numpy(drawn), 255.0, out=image)
            _checkpoint(progress)
        return io.NodeOutput(images)


def _toggle(name: str, default: bool, tooltip: str) -> io.Input:
    return io.Boolean.Input(name, default=default, optional=True, tooltip=tooltip)


NODES: list[type[io.ComfyNode]] = [
    TroupeLoadPose,
    TroupeDetectPose,
    TroupeDrawPose,
    TroupeSavePose,
]
