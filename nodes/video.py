"""Nodes of the menu section troupe/video: shots, the film made of them, and its file."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import folder_paths
from comfy.cli_args import args
from comfy_api.v0_0_2 import Input, io, ui

from ..video import (
    PRESETS,
    TRANSITIONS,
    Shot,
    VideoError,
    assemble,
    batch_of_tensor,
    camera_move,
    listening,
    make_transition,
    pictures_in_folder,
    preset_named,
    seconds,
    with_quality,
)
from . import video_widgets as widgets
from .runtime.film_previews import small_copy
from .runtime.films import film_of_video, shot_of_video, sound_of_audio
from .runtime.lazy_video import LazyVideo
from .runtime.paths import (
    PathError,
    check_prefix,
    dataset_roots,
    find_below,
    save_location,
    save_numbered,
)
from .runtime.prefixes import with_dates
from .runtime.types import Shot as ShotSocket

CATEGORY = "troupe/video"
FILM_DEFAULT = "film default"  # the transition a shot asks for when it asks for none
MAX_SHOTS = 100
MAX_SECONDS = 3600.0


class TroupeShot(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeShot",
            display_name="Shot",
            category=CATEGORY,
            search_aliases=[
                "clip",
                "slide",
                "ken burns",
                "zoom",
                "pan",
                "scene",
                "transition",
                "load video",
            ],
            description="One shot of a film: a still, a batch of frames or a video, how long it "
            "shows, how the camera moves over it, and how it follows the shot before.",
            inputs=[
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="A still, or a batch of frames. Connect either this or a video.",
                ),
                io.Video.Input(
                    "video",
                    optional=True,
                    tooltip="Any video, with its sound; it is read as the film plays, never "
                    "loaded whole. Connect either this or an image.",
                ),
                io.Float.Input(
                    "duration",
                    default=0.0,
                    min=0.0,
                    max=MAX_SECONDS,
                    step=0.01,
                    optional=True,
                    tooltip="Seconds the shot lasts. 0 is its natural length: that of the video, "
                    "one film frame per picture of a batch, 3 seconds for a still. A batch is "
                    "spread over the seconds; a video is cut or holds its last frame.",
                ),
                *widgets.camera(),
                *widgets.transition(
                    [FILM_DEFAULT, *TRANSITIONS],
                    "How this shot follows the one before; the first shot of a film needs none. "
                    f"{FILM_DEFAULT}: all four fields are those of Timeline;",
                ),
                widgets.easing("camera_easing", "the camera", "smooth"),
                io.Float.Input(
                    "volume",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="Loudness of the video's own sound; 0 is silent.",
                ),
            ],
            outputs=[ShotSocket.Output(display_name="shot", tooltip="For Timeline.")],
        )

    @classmethod
    def execute(
        cls,
        image=None,
        video: Input.Video | None = None,
        duration: float = 0.0,
        camera: str = "none",
        camera_amount: float = 0.15,
        fit: str = "fill",
        transition: str = FILM_DEFAULT,
        transition_duration: float = 0.5,
        transition_softness: float = 0.1,
        transition_easing: str = "linear",
        camera_easing: str = "smooth",
        volume: float = 1.0,
    ) -> io.NodeOutput:
        if (image is None) == (video is None):
            raise VideoError("Shot needs exactly one of image and video: connect one of them.")
        joint = None
        if transition != FILM_DEFAULT:
            joint = make_transition(
                transition, transition_duration, transition_easing, transition_softness
            )
        with listening() as notes:
            base = shot_of_video(video) if image is None else Shot(batch_of_tensor(image))
        shot = replace(
            base,
            duration=seconds(duration) or None,
            camera=camera_move(camera, camera_amount, camera_easing),
            fit=fit,
            transition=joint,
            volume=volume,
        )
        return io.NodeOutput(shot, ui=_told(notes) or None)


class TroupeTimeline(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeTimeline",
            display_name="Timeline",
            category=CATEGORY,
            search_aliases=[
                "film",
                "join videos",
                "video combine",
                "concatenate",
                "transition",
                "crossfade",
                "slideshow",
                "edit",
            ],
            description="Join shots into a film. Nothing is computed yet: the frames are made "
            "when the film is saved or looked at, one after another.",
            inputs=[
                io.Autogrow.Input(
                    "shots",
                    template=io.Autogrow.TemplatePrefix(
                        ShotSocket.Input("shot", tooltip="A shot; they play in this order."),
                        prefix="shot",
                        min=1,
                        max=MAX_SHOTS,
                    ),
                    tooltip="The shots in playing order; a new socket appears for the next one.",
                ),
                widgets.fps(),
                widgets.size("width"),
                widgets.size("height"),
                *widgets.transition(
                    list(TRANSITIONS), "How shots follow each other unless they say so themselves."
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="Music or speech for the whole film, mixed with the sound of its "
                    "videos. It is cut at the end of the film; if it is shorter, silence follows.",
                ),
            ],
            outputs=[
                io.Video.Output(
                    display_name="video",
                    tooltip="The film, for Save Film or any node that takes a video.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        shots: dict[str, Shot],
        fps: float,
        width: int,
        height: int,
        transition: str = "cut",
        transition_duration: float = 0.5,
        transition_softness: float = 0.1,
        transition_easing: str = "linear",
        audio=None,
    ) -> io.NodeOutput:
        joint = make_transition(
            transition, transition_duration, transition_easing, transition_softness
        )
        # A prompt may name its inputs in any order; the number in the name is what counts.
        numbered = sorted(shots.items(), key=lambda item: int(item[0].removeprefix("shot")))
        ordered = [shot for _, shot in numbered if shot is not None]
        film = assemble(ordered, fps, width, height, joint, sound_of_audio(audio))
        return io.NodeOutput(LazyVideo(film))


class TroupeSaveVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeSaveVideo",
            display_name="Save Film",
            category=CATEGORY,
            search_aliases=["export video", "video combine", "mp4", "h264", "encode", "save video"],
            description="Write a video to ComfyUI's output folder, with correct colour tags and "
            "the workflow inside (drop the file on the canvas to get it back). A file appears "
            "only when it is complete.",
            inputs=[
                io.Video.Input("video", tooltip="A film from Timeline, or any other video."),
                io.String.Input(
                    "filename_prefix",
                    default="video/Troupe",
                    tooltip="Name of the file below output/; '/' makes folders. %date:yyyy-MM-dd%, "
                    "%width%, %height%, %NODE.WIDGET% (such as %KSampler.seed%) and the like are "
                    "filled in as in Save Image, a number is added.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="h264",
                    optional=True,
                    tooltip=f"Format and quality. {widgets.choices(PRESETS)}",
                ),
                io.Float.Input(
                    "crf",
                    default=-1.0,
                    min=-1.0,
                    max=63.0,
                    step=1.0,
                    optional=True,
                    advanced=True,
                    tooltip="Quality of the picture: lower is better and larger, steps of 6 "
                    "double the size. -1 takes the preset's own.",
                ),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The same film, not re-encoded."),
                io.String.Output(
                    display_name="file name", tooltip="Where it was written, below output/."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return check_prefix(filename_prefix)

    @classmethod
    def fingerprint_inputs(cls, filename_prefix: str | None = None, **_) -> str:
        return with_dates(filename_prefix or "")

    @classmethod
    def execute(
        cls,
        video: Input.Video,
        filename_prefix: str,
        preset: str = "h264",
        crf: float = -1.0,
    ) -> io.NodeOutput:
        chosen = with_quality(preset_named(preset), None if crf < 0 else crf)
        with listening() as notes:
            film = film_of_video(video)
            folder, stem, counter, subfolder = save_location(
                filename_prefix, cls.hidden, size=(film.width, film.height)
            )
            lazy = video if isinstance(video, LazyVideo) else LazyVideo(film)
            write = partial(lazy.write, preset=chosen, metadata=cls._metadata(), new=True)
            name = save_numbered(write, folder, stem, counter, f".{chosen.extension}")
            small = small_copy(folder / name, chosen, film)
        saved = f"{subfolder}/{name}" if subfolder else name
        shown = ui.PreviewVideo([ui.SavedResult(name, subfolder, io.FolderType.output)]).as_dict()
        if small:  # web/js/film_preview.js shows it instead; the file stays what others read
            shown["preview"] = small
        return io.NodeOutput(lazy, saved, ui=shown | _told(notes))

    @classmethod
    def _metadata(cls) -> dict | None:
        """What core's own savers embed, under the same names."""
        if args.disable_metadata:
            return None
        metadata = dict(cls.hidden.extra_pnginfo or {})
        if cls.hidden.prompt is not None:
            metadata["prompt"] = cls.hidden.prompt
        return metadata


class TroupeLoadFrames(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeLoadFrames",
            display_name="Load Frames",
            category=CATEGORY,
            search_aliases=[
                "image sequence",
                "load folder",
                "load video",
                "png sequence",
                "frames to video",
            ],
            description="A folder of pictures as a video, in natural order (2 before 10). "
            "Pictures are read as the film plays; only one is in memory.",
            inputs=[
                io.String.Input(
                    "folder",
                    default="frames",
                    tooltip="A folder below ComfyUI's input/, datasets/ or output/.",
                ),
                widgets.fps(),
            ],
            outputs=[
                io.Video.Output(
                    display_name="video",
                    tooltip="For Shot, Save Film or any node that takes a video. Its size is that "
                    "of the first picture; others are cropped to fill it.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        if folder is None:
            return True
        try:
            _frames_folder(folder)
        except PathError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **_) -> str:
        if folder is None:
            return ""
        entries = sorted(os.scandir(_frames_folder(folder)), key=lambda entry: entry.name)
        return repr([(e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries])

    @classmethod
    def execute(cls, folder: str, fps: float) -> io.NodeOutput:
        source = pictures_in_folder(_frames_folder(folder))
        return io.NodeOutput(LazyVideo(assemble([Shot(source)], fps)))


def _told(notes: list[str]) -> dict[str, list[str]]:
    """What was noticed about files, for the node to show and for those who ask over the API."""
    return {"text": notes} if notes else {}


def _frames_folder(name: str) -> Path:
    roots = [*dataset_roots(), folder_paths.get_output_directory()]
    folder = find_below(roots, name, "folder")
    if not folder.is_dir():
        raise PathError(f"folder {name!r} is a file: give the folder that holds the pictures.")
    return folder


NODES: list[type[io.ComfyNode]] = [TroupeShot, TroupeTimeline, TroupeSaveVideo, TroupeLoadFrames]
