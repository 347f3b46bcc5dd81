"""Ways to write a film. One preset is one entry; widgets, messages and help are made from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .errors import VideoError

SPEEDS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)


@dataclass(frozen=True)
class Preset:
    name: str
    help: str
    extension: str
    container: str  # FFmpeg's name of the muxer
    codec: str  # FFmpeg's name of the encoder
    pixel_format: str
    audio_codec: str
    crf: float | None = None  # constant rate factor: lower is better and larger; None: has none
    max_crf: float = 51
    options: tuple[tuple[str, str], ...] = ()
    audio_bit_rate: int | None = None
    codec_tag: str | None = None
    deep_pixel_format: str | None = None  # the 10 bit form, where there is one
    in_browsers: bool = True  # whether a page can play it

    @property
    def even(self) -> bool:
        """Whether the chroma of this pixel format needs even sizes."""
        return "420" in self.pixel_format or "422" in self.pixel_format

    @property
    def rgb(self) -> bool:
        """Whether the pictures are written as they are, not as luma and chroma."""
        return self.pixel_format == "bgr0"


def _x264(speed: str) -> tuple[tuple[str, str], ...]:
    # libx264 looks 40 frames ahead by default and keeps them all: 360 MB at 1080p. 10 frames need
    # 160 MB for nearly the same quality. (ultrafast does not look ahead at all.)
    ahead = () if speed == "ultrafast" else (("rc-lookahead", "10"),)
    return (("preset", speed), *ahead)


_H264 = Preset(
    name="h264",
    help="MP4, H.264: plays everywhere",
    extension="mp4",
    container="mp4",
    codec="libx264",
    pixel_format="yuv420p",
    audio_codec="aac",
    crf=19,
    options=_x264("medium"),
    audio_bit_rate=192_000,
    deep_pixel_format="yuv420p10le",
)

PRESETS = {
    preset.name: preset
    for preset in (
        _H264,
        replace(
            _H264,
            name="h264_draft",
            help="MP4, H.264, quick and rough: for looking at the cut",
            crf=26,
            options=_x264("ultrafast"),
        ),
        replace(
            _H264,
            name="h264_best",
            help="MP4, H.264, slow and nearly without loss: for keeping",
            crf=14,
            options=_x264("slow"),
            audio_bit_rate=320_000,
        ),
        Preset(
            name="h265",
            help="MP4, H.265: about half the size of H.264, slower, plays on newer devices",
            extension="mp4",
            container="mp4",
            codec="libx265",
            pixel_format="yuv420p",
            audio_codec="aac",
            crf=22,
            options=(("preset", "medium"), ("x265-params", "log-level=error:rc-lookahead=16")),
            audio_bit_rate=192_000,
            codec_tag="hvc1",  # what Apple players ask for
            deep_pixel_format="yuv420p10le",
            in_browsers=False,
        ),
        Preset(
            name="av1",
            help="MP4, AV1: smaller than H.265 and free, plays in browsers and newer devices",
            extension="mp4",
            container="mp4",
            codec="libsvtav1",
            pixel_format="yuv420p",
            audio_codec="aac",
            crf=30,
            max_crf=63,
            options=(("preset", "8"), ("svtav1-params", "lookahead=16")),
            audio_bit_rate=192_000,
            deep_pixel_format="yuv420p10le",
        ),
        Preset(
            name="vp9",
            help="WebM, VP9 and Opus: free formats for the web, slow",
            extension="webm",
            container="webm",
            codec="libvpx-vp9",
            pixel_format="yuv420p",
            audio_codec="libopus",
            crf=30,
            max_crf=63,
            options=(
                ("b", "0"),
                ("deadline", "good"),
                ("cpu-used", "4"),
                ("row-mt", "1"),
                ("lag-in-frames", "12"),
            ),
            audio_bit_rate=160_000,
        ),
        Preset(
            name="prores",
            help="MOV, ProRes 422 HQ and PCM: for editing programs, very large",
            extension="mov",
            container="mov",
            codec="prores_ks",
            pixel_format="yuv422p10le",
            audio_codec="pcm_s16le",
            options=(("profile", "3"), ("vendor", "apl0")),
            in_browsers=False,
        ),
        Preset(
            name="ffv1",
            help="MKV, FFV1 in RGB and FLAC: every pixel exact, very large",
            extension="mkv",
            container="matroska",
            codec="ffv1",
            pixel_format="bgr0",
            audio_codec="flac",
            options=(("level", "3"), ("slices", "4")),
            in_browsers=False,
        ),
    )
}


def preset_named(name: str) -> Preset:
    """
    Raises:
        VideoError: no preset has that name.
    """
    if name not in PRESETS:
        raise VideoError(f"Unknown preset {name!r}: use one of {', '.join(PRESETS)}.")
    return PRESETS[name]


def with_quality(preset: Preset, crf: float | None, bit_depth: int | None = None) -> Preset:
    """The preset with another constant rate factor and bit depth; None keeps its own.

    Raises:
        VideoError: the preset has no such factor or depth, or it is out of range.
    """
    if crf is not None:
        if preset.crf is None:
            raise VideoError(f"Preset {preset.name!r} has no crf: leave it at -1.")
        if not 0 <= crf <= preset.max_crf:
            raise VideoError(f"crf {crf:g} is out of range: use 0 to {preset.max_crf:g}.")
        preset = replace(preset, crf=crf)
    if bit_depth is not None and bit_depth > 8 and "10" not in preset.pixel_format:
        if preset.deep_pixel_format is None:
            raise VideoError(f"Preset {preset.name!r} cannot write {bit_depth} bit.")
        preset = replace(preset, pixel_format=preset.deep_pixel_format)
    return preset


def with_speed(preset: Preset, speed: str | None) -> Preset:
    """The preset at another of x264's or x265's speeds ("ultrafast" .. "placebo").

    None keeps its own, as do encoders without such words.

    Raises:
        VideoError: no such speed.
    """
    if speed is None or preset.codec not in ("libx264", "libx265"):
        return preset
    if speed not in SPEEDS:
        raise VideoError(f"Unknown encoder speed {speed!r}: use one of {', '.join(SPEEDS)}.")
    options = {**dict(preset.options), "preset": speed}
    if preset.codec == "libx264":
        options = dict(_x264(speed))
    return replace(preset, options=tuple(options.items()))
