"""From what sockets carry (IMAGE, AUDIO, any VIDEO) to what the film engine takes."""

import os
from fractions import Fraction
from typing import Any

import numpy as np
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
    if _streams(video):
        return _shot_of_stream(video)
    components = video.get_components()
    rate = exact_rate(Fraction(components.frame_rate))
    sound = sound_of_audio(components.audio)
    return Shot(TensorPictures(components.images, rate), sound=sound)


def _streams(video: Input.Video) -> bool:
    """Whether it can be read as a file; the default of the base class would encode it first."""
    method = getattr(type(video), "get_stream_source", None)
    return method is not None and method is not Input.Video.get_stream_source


def _shot_of_stream(video: Input.Video) -> Shot:
    stream = video.get_stream_source()
    file = os.fspath(stream) if isinstance(stream, (str, os.PathLike)) else stream.getvalue()
    start, duration = (Fraction(str(time)) for time in video.get_active_trim_window())
    source = open_video(file, start, duration or None)
    sound = sound_of_file(file, start, source.duration, source.origin) if source.has_sound else None
    return Shot(source, sound=sound)


def film_of_video(video: Input.Video) -> Timeline:
    """Any VIDEO as a film of its own size and rate."""
    if isinstance(video, LazyVideo):
        return video.film
    if video is None:
        raise VideoError("No video: connect one.")
    return assemble([shot_of_video(video)], exact_rate(Fraction(video.get_frame_rate())))
