"""From what sockets carry (IMAGE, AUDIO, any VIDEO) to what the film engine takes."""

import os
import uuid
from fractions import Fraction
from typing import Any

import comfy.model_management
import folder_paths
import numpy as np
import torch
from comfy_api.v0_0_2 import Input

from ...video import (
    FilmSource,
    Samples,
    Shot,
    TensorPictures,
    Timeline,
    VideoError,
    assemble,
    exact_rate,
    open_video,
    sound_of_file,
    sound_of_film,
)
from .lazy_video import LazyVideo

FRAME_BYTES = 12  # of a pixel of an IMAGE
EDIT_SHARE = 0.25  # of the free memory that edited frames may take
EDIT_CRF = 8.0  # nothing to be seen


def sound_of_audio(audio: dict[str, Any] | None) -> Samples | None:
    """An AUDIO (its first item) as a track; None stays None, and so does an empty one."""
    if audio is None:
        return None
    waveform = audio["waveform"]
    if waveform.ndim != 3 or not waveform.shape[0] or not waveform.shape[2]:
        return None
    samples = waveform[0].detach().float().cpu().numpy()
    if samples.shape[0] not in (1, 2, 6):
        samples = samples[:2]
    return Samples(np.ascontiguousarray(samples), int(audio["sample_rate"]))


def shot_of_video(video: Input.Video) -> Shot:
    """Any VIDEO as a shot with its sound; files are read as they play, films are not encoded."""
    if isinstance(video, LazyVideo):
        return Shot(FilmSource(video.film), sound=sound_of_film(video.film))
    if _edited(video):
        return _shot_of_edited(video)
    if _streams(video):
        return _shot_of_stream(video)
    return _shot_of_components(video)


def _shot_of_components(video: Input.Video) -> Shot:
    components = video.get_components()
    rate = exact_rate(Fraction(components.frame_rate))
    sound = sound_of_audio(components.audio)
    return Shot(TensorPictures(components.images, rate), sound=sound)


def _edited(video: Input.Video) -> bool:
    """Whether frames are still to be cropped or resized: its file shows them as they were."""
    pending = getattr(video, "has_pending_frame_edits", None)
    return pending is not None and bool(pending())


def _shot_of_edited(video: Input.Video) -> Shot:
    """Core's own edits, made by core: in memory where they fit easily, otherwise in a file."""
    width, height = video.get_dimensions()
    needed = video.get_frame_count() * width * height * FRAME_BYTES
    free = comfy.model_management.get_free_memory(torch.device("cpu"))
    if needed < free * EDIT_SHARE:
        return _shot_of_components(video)
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"troupe_{uuid.uuid4().hex}.mp4")
    video.save_to(path, crf=EDIT_CRF)
    return _shot_of_file(path, Fraction(0), None)


def _streams(video: Input.Video) -> bool:
    """Whether it can be read as a file; the default of the base class would encode it first."""
    method = getattr(type(video), "get_stream_source", None)
    return method is not None and method is not Input.Video.get_stream_source


def _shot_of_stream(video: Input.Video) -> Shot:
    stream = video.get_stream_source()
    file = os.fspath(stream) if isinstance(stream, (str, os.PathLike)) else stream.getvalue()
    start, duration = (Fraction(str(time)) for time in video.get_active_trim_window())
    return _shot_of_file(file, start, duration or None)


def _shot_of_file(file: str | bytes, start: Fraction, duration: Fraction | None) -> Shot:
    source = open_video(file, start, duration)
    sound = sound_of_file(file, start, source.duration, source.origin) if source.has_sound else None
    return Shot(source, sound=sound)


def film_of_video(video: Input.Video) -> Timeline:
    """Any VIDEO as a film of its own size and rate."""
    if isinstance(video, LazyVideo):
        return video.film
    if video is None:
        raise VideoError("No video: connect one.")
    shot = shot_of_video(video)
    # At the average rate that core reports, a file of variable rate would lose most of its frames.
    rate = getattr(shot.source, "rate", None) or Fraction(video.get_frame_rate())
    return assemble([shot], exact_rate(rate))
