"""Picture and sound of a file on one clock, whatever its streams say; sounds that add up well."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.unit.video.conftest import still, texture
from tests.unit.video.test_sound import RATE, mixed, onsets, tone
from video import (
    FilmSource,
    Renderer,
    Samples,
    Shot,
    assemble,
    encode,
    listening,
    open_video,
    sound_of_file,
    sound_of_film,
)

CHUNK = 1024
STILL = still(texture(32, 32))


def media(path, picture=0.0, sound=0.0, seconds=4.0, hole=(), codec="pcm_s16le", wave=None):
    """Black with one white frame per second and a click at the same time of its own stream.

    The streams begin `picture` and `sound` seconds into the file; `hole` is a range of seconds of
    which there is no sound.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "10", "g": "10"})
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        video.codec_context.time_base = Fraction(1, 90_000)
        audio = container.add_stream(codec, rate=RATE, layout="mono")
        samples = wave if wave is not None else np.zeros(round(seconds * RATE), np.float32)
        if wave is None:
            for second in range(1, int(seconds)):
                samples[second * RATE : second * RATE + 40] = 0.9
        packets = []
        for index in range(round(seconds * 25)):
            level = 255 if index % 25 == 0 and index else 0
            frame = av.VideoFrame.from_ndarray(np.full((32, 32), level, np.uint8), format="gray")
            frame.pts = round((picture + index / 25) * 90_000)
            frame.time_base = Fraction(1, 90_000)
            packets += video.encode(frame.reformat(format="yuv420p"))
        packets += video.encode(None)
        for at in range(0, len(samples), CHUNK):
            piece = samples[None, at : at + CHUNK]
            if hole and hole[0] <= at / RATE < hole[1]:
                continue
            frame = av.AudioFrame.from_ndarray(piece, format="flt", layout="mono")
            frame.sample_rate, frame.pts = RATE, at + round(sound * RATE)
            wanted = audio.codec_context.format.name
            shaped = frame
            if wanted != "flt":
                shaped = av.AudioResampler(wanted, "mono", RATE).resample(frame)[0]
                shaped.pts = frame.pts
            shaped.time_base = Fraction(1, RATE)
            packets += audio.encode(shaped)
        packets += audio.encode(None)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            container.mux(packet)
    return path


def film_of(path, start=Fraction(0), duration=None):
    source = open_video(str(path), start, duration)
    return assemble([Shot(source, sound=sound_of_file(str(path), start, source.duration))], 25)


def flashes(film) -> list[float]:
    with Renderer(film) as renderer:
        white = [frame.mean() > 128 for frame in renderer.frames()]
    return [index / 25 for index, now in enumerate(white) if now and not white[index - 1]]


@pytest.mark.parametrize("suffix, codec", [("mp4", "aac"), ("mov", "pcm_s16le"), ("mkv", "flac")])
@pytest.mark.parametrize("picture, sound", [(0, 0), (0.5, 0), (0, 0.5), (0.021, 0), (0, 1.307)])
def test_what_happens_together_in_a_file_does_so_in_a_film(tmp_path, suffix, codec, picture, sound):
    path = media(tmp_path / f"clip.{suffix}", picture, sound, codec=codec)
    film = film_of(path)
    seen, heard = flashes(film), onsets(mixed(film)[0])
    assert len(seen) == 3 and len(heard) >= 2
    apart = np.array(heard[:2]) - np.array(seen[:2])
    assert np.abs(apart - (sound - picture)).max() < 0.001 + 0.002 * (codec == "aac")
    assert heard[1] - heard[0] == pytest.approx(1, abs=1e-3)


def test_transport_streams_begin_where_they_like(tmp_path):
    path = media(tmp_path / "clip.ts", codec="aac")  # the encoder begins 21 ms early
    film = film_of(path)
    assert film.frame_count == 100  # each frame once: less than a frame of sound is left out
    assert np.abs(np.array(onsets(mixed(film)[0])) - flashes(film)).max() < 0.003


def test_parts_keep_the_clock(tmp_path):
    """Also where decoding has to begin in a long group of pictures and inside the sound."""
    path = media(tmp_path / "clip.mkv", 0.48, 0.0, seconds=12, codec="flac")
    part = film_of(path, Fraction(19, 2), Fraction(2))
    assert flashes(part) == [0.0, 1.0]  # 20 ms of the one at 9.48 s, and the one at 10.48 s
    assert np.allclose(onsets(mixed(part)[0]), [0.5, 1.5], atol=1e-3)


@pytest.mark.parametrize("suffix, codec", [("mp4", "aac"), ("mkv", "flac")])
def test_a_hole_in_the_sound_is_silent_and_moves_nothing(tmp_path, suffix, codec):
    path = media(tmp_path / f"clip.{suffix}", hole=(1.2, 2.4), codec=codec)
    film = film_of(path)
    assert np.allclose(onsets(mixed(film)[0]), [1, 3], atol=0.003)


def test_damaged_sound_is_silent_there_and_said(tmp_path):
    path = media(tmp_path / "clip.mp4", codec="aac", wave=tone(4, channels=1).samples[0])
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(audio=0) if p.size]
        places = [(p.pos, p.size) for p in packets[60:64]]
    data = bytearray(path.read_bytes())
    for at, size in places:
        data[at : at + size] = b"\xff" * size
    path.write_bytes(data)
    with listening() as notes:
        got = mixed(film_of(path))[0]
    assert notes == ["clip.mp4 has damaged sound, it is silent there."]
    loud = [np.abs(got[int(s * RATE) : int(s * RATE) + 4800]).max() for s in (0.5, 2, 3.5)]
    assert min(loud) > 0.3
    later = slice(3 * RATE, 38 * RATE // 10)
    error = np.abs(got[later] - tone(4, channels=1).samples[0][later])
    assert np.median(error) < 0.01  # one sample late would be 0.02; the encoder bends some frames


def test_samples_that_are_no_numbers_are_silent_and_said(tmp_path):
    wave = tone(4, channels=1).samples[0].copy()
    wave[RATE : RATE + 100] = np.nan
    wave[2 * RATE] = np.inf
    path = media(tmp_path / "clip.mov", codec="pcm_f32le", wave=wave)
    for sound in (sound_of_file(str(path), Fraction(0), Fraction(4)), None):
        with listening() as notes:
            sound = sound or Samples(wave[None], RATE)
            got = mixed(assemble([Shot(STILL, Fraction(4), sound=sound)], 24))
        assert "not numbers" in notes[0] and len(notes) == 1
        assert np.isfinite(got).all() and not got[0, RATE : RATE + 100].any()
        assert np.abs(got[0, :RATE] - tone(1, channels=1).samples[0]).max() < 1e-4


def test_the_mix_has_the_highest_rate():
    shots = [
        Shot(STILL, Fraction(1), sound=tone(1, 8000, 1)),
        Shot(STILL, Fraction(1), sound=tone(1, RATE, 1, pitch=9000)),
    ]
    film = assemble(shots, 24)
    got = mixed(film)[0]
    assert got.shape == (2 * RATE,)
    assert np.abs(got[RATE + 100 : -100]).max() > 0.39  # 9 kHz does not fit into 8 kHz sound


def test_what_adds_up_too_loud_is_lowered_without_clipping():
    """A second of two tones that beat: the loudest is at full scale, and no wave is flattened."""
    a, b = (0.9 / 0.4 * tone(3, pitch=p).samples for p in (437, 447))
    quiet = np.r_[np.zeros(RATE), np.ones(RATE), np.zeros(RATE)].astype(np.float32)
    film = assemble([Shot(STILL, Fraction(3), sound=Samples(a, RATE))], 24)
    loud = assemble(
        [Shot(STILL, Fraction(3), sound=Samples(a, RATE))], 24, sound=Samples(b * quiet, RATE)
    )
    got, alone = mixed(loud)[0], mixed(film)[0]
    assert 0.99 < np.abs(got).max() <= 1.0
    assert np.array_equal(got[: RATE // 2], alone[: RATE // 2])  # nothing was too loud there
    flat = (np.abs(got) >= 0.9999).astype(int)
    assert max(len(run) for run in "".join(map(str, flat)).split("0")) <= 4
    exact = (a + b * quiet)[0]
    gain = got[np.abs(exact) > 0.3] / exact[np.abs(exact) > 0.3]
    assert gain.min() > 0.5 and gain.max() <= 1.0001
    assert np.abs(np.diff(got)).max() <= np.abs(np.diff(exact)).max() * 1.01


def test_cuts_do_not_click_and_what_goes_on_does_not_dip(tmp_path):
    low = 0.8 / 0.4 * tone(6, channels=1, pitch=83).samples
    shots = [Shot(STILL, Fraction(1, 1) / 7 * n, sound=Samples(low, RATE)) for n in (3, 4)]
    got = mixed(assemble(shots, 28))[0]
    assert np.abs(np.diff(got)).max() < 0.02  # the cut alone would be a step of half the scale
    path = tmp_path / "clip.mov"
    media(path, wave=low[0], seconds=6)
    halves = [Fraction(0), Fraction(3, 2)]
    cut = [
        Shot(STILL, Fraction(3, 2), sound=sound_of_file(str(path), s, Fraction(3, 2)))
        for s in halves
    ]
    whole = Shot(STILL, Fraction(3), sound=sound_of_file(str(path), Fraction(0), Fraction(3)))
    pieces, one = (mixed(assemble(shots, 24))[0] for shots in (cut, [whole]))
    assert np.abs(pieces - one).max() < 1e-3


def test_many_clips_do_not_keep_their_files_open(tmp_path):
    """More clips than a process may have files; their sound used to stay open to the end."""
    resource = pytest.importorskip("resource")  # POSIX
    path = tmp_path / "clip.mov"
    media(path, seconds=2)
    clips = [open_video(str(path), Fraction(n % 3, 4), Fraction(1, 5)) for n in range(60)]
    shots = [Shot(c, sound=sound_of_file(str(path), c.start, c.duration, c.origin)) for c in clips]
    inner = assemble(shots, 25)
    film = assemble([Shot(FilmSource(inner), sound=sound_of_film(inner))], 25)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 16, hard))
    try:
        encode(film, tmp_path / "film.mp4", "h264_draft")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_video(str(tmp_path / "film.mp4")).duration == 12
