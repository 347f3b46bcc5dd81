"""A small film to look at on the page, for formats that browsers do not play."""

import os
import uuid
from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io, ui

from ...video import (
    Preset,
    Shot,
    Timeline,
    VideoError,
    assemble,
    encode,
    open_video,
    preset_named,
    say,
    sound_of_file,
)
from .lazy_video import FilmProgress

PREVIEW_SIDE = 640  # pixels of the longer side


def small_copy(path: Path, preset: Preset, film: Timeline) -> list[ui.SavedResult]:
    """A small H.264 of a saved film in ComfyUI's temp folder; none where the page plays the film.

    The film is read from its file, which costs less than to render it again.
    """
    if preset.in_browsers:
        return []
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    name = f"troupe_preview_{uuid.uuid4().hex}.mp4"
    try:
        source = open_video(str(path))
        sound = sound_of_file(str(path), source.start, source.duration, source.origin)
        scale = min(1.0, PREVIEW_SIDE / max(film.width, film.height))
        width, height = (max(2, 2 * round(side * scale / 2)) for side in (film.width, film.height))
        small = assemble([Shot(source, sound=sound)], film.fps, width, height)
        progress = FilmProgress(small.frame_count)
        encode(small, os.path.join(folder, name), preset_named("h264_draft"), progress=progress)
    except VideoError as error:
        say(f"The film is saved, but there is no preview of it: {error}")
        return []
    return [ui.SavedResult(name, "", io.FolderType.temp)]
