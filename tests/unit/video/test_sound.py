"""Sound lies where its pictures are: to the sample in the mix, within a packet in the file."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.unit.video.conftest import clip, still, texture
from video import (
    FilmSource,
    Samples,
    Shot,
    VideoError,
    assemble,
    encode,
    make_transition,
    mix,
    open_video,
    sample_count,
    sound_format,
    sound_of_file,
    sound_of_film,
)

RATE = 48000
STILL = still(texture(32, 32))


def tone(seconds: float, rate: int = RATE, channels: int = 2, pitch: float = 440) -> Samples:
    time = np.arange(round(seconds * rate)) / rate
    return Samples(
        np.tile(0.4 * np.sin(2 * np.pi * pitch * time), (channels, 1)).astype("f4"), rate
    )


def clicks(times, seconds: float, rate: int = RATE) -> Samples:
    samples = np.zeros((1, round(seconds * rate)), np.float32)
    for time in times:
        samples[0, round(time * rate) : round(time * rate) + 40] = 0.9
    return Samples(samples, rate)


def mixed(film, rate=None, channels=None) -> np.ndarray:
    own_rate, own_channels = sound_format(film)
    return np.concatenate(list(mix(film, rate or own_rate, channels or own_channels)), axis=1)


def decoded(path, rate: int = RATE) -> np.ndarray:
    """Mono samples on the file's clock: silence where the stream has no packet."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler("flt", "mono", rate)
        pieces = []
        start = None
        for frame in container.decode(stream):
            start = frame.pts * Fraction(frame.time_base) if start is None else start
            frame.pts = None
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
    out = np.concatenate(pieces)
    lead = round(start * rate)
    return np.concatenate((np.zeros(lead, np.float32), out)) if lead >= 0 else out[-lead:]


def onsets(samples: np.ndarray, rate: int = RATE) -> list[float]:
    loud = np.flatnonzero(np.abs(samples) > 0.3)
    first = loud[np.diff(loud, prepend=-rate) > rate // 10]
    return [float(n / rate) for n in first]


@pytest.mark.parametrize("fps", [24, 23.976, 12.5])
@pytest.mark.parametrize("length", [0.3, 5.0])
def test_the_film_cuts_or_completes_its_sound(fps, length):
    sound = tone(length)
    film = assemble([Shot(STILL, Fraction(2))], fps, sound=sound)
    got = mixed(film)
    expected = round(film.frame_count / film.fps * RATE)
    assert got.shape == (2, expected) == (2, sample_count(film, RATE))
    kept = min(expected, sound.samples.shape[1])
    assert np.array_equal(got[:, :kept], sound.samples[:, :kept])
    assert not got[:, kept:].any()


def test_shots_bring_their_sound_to_their_own_place():
    shots = [
        Shot(STILL, Fraction(1), sound=tone(1, channels=1, pitch=300)),
        Shot(STILL, Fraction(1)),
        Shot(STILL, Fraction(1), sound=tone(9, channels=1, pitch=500), volume=0.5),
    ]
    got = mixed(assemble(shots, 24))
    assert got.shape == (1, 3 * RATE)
    assert np.array_equal(got[:, :RATE], shots[0].sound.samples)
    assert not got[:, RATE : 2 * RATE].any()
    assert np.allclose(got[:, 2 * RATE :], 0.5 * shots[2].sound.samples[:, :RATE], atol=1e-7)


def test_film_and_shot_sounds_add_up_and_do_not_overflow():
    film = assemble([Shot(STILL, Fraction(1), sound=tone(1))], 24, sound=tone(1, pitch=440))
    assert np.allclose(mixed(film), 2 * tone(1).samples, atol=1e-6)
    loud = Samples(np.full((2, RATE), 0.8, np.float32), RATE)
    assert mixed(assemble([Shot(STILL, Fraction(1), sound=loud)], 24, sound=loud)).max() == 1.0


def test_crossing_sounds_keep_their_power():
    """Two unrelated noises cross with equal power: the loudness stays within 5 percent."""
    rng = np.random.default_rng(0)
    sounds = [Samples(rng.normal(0, 0.1, (1, 3 * RATE)).astype("f4"), RATE) for _ in range(2)]
    shots = [Shot(STILL, Fraction(3), sound=sound) for sound in sounds]
    film = assemble(shots, 24, transition=make_transition("crossfade", 2.0))
    got = mixed(film)[0]
    power = [float(np.std(part)) for part in np.split(got, 8)]
    assert np.ptp(power) < 0.05 * 0.1 * 2
    assert np.array_equal(got[: RATE // 2], sounds[0].samples[0, : RATE // 2])
    assert np.array_equal(got[-RATE // 2 :], sounds[1].samples[0, 3 * RATE - RATE // 2 :])


def test_trimming_cuts_the_mix():
    shots = [Shot(STILL, Fraction(2), sound=tone(2, pitch=p)) for p in (300, 500)]
    film = assemble(
        shots, 23.976, transition=make_transition("crossfade", 0.5), sound=tone(9, pitch=90)
    )
    whole = mixed(film)
    for first, length in ((10, 20), (40, 11), (60, None)):
        part = film.trimmed(first, length)
        start = round(first / film.fps * RATE)
        got = mixed(part)
        assert got.shape[1] == sample_count(part, RATE)
        # Boundaries are rounded to samples in each film by itself: at most one sample apart.
        errors = [
            np.abs(got[:, 2:-2] - whole[:, start + 2 + d : start + d + got.shape[1] - 2]).max()
            for d in (-1, 0, 1)
        ]
        assert min(errors) < 0.02


def test_rates_and_channels_are_converted():
    film = assemble([Shot(STILL, Fraction(1), sound=tone(1, 22050, 1))], 24)
    got = mixed(film, 48000, 2)
    assert got.shape == (2, 48000)
    time = np.arange(48000) / 48000
    expected = 0.4 * np.sin(2 * np.pi * 440 * time)
    assert np.abs(got[:, 200:-200] - expected[200:-200] * np.abs(got).max() / 0.4).max() < 0.01
    assert 0.25 < np.abs(got).max() <= 0.42  # FFmpeg lays mono on both sides at -3 dB or as it is


@pytest.mark.parametrize("preset", ["h264", "vp9", "prores", "ffv1"])
@pytest.mark.parametrize("rate", [44100, 48000, 40000])
def test_sound_in_files_starts_and_ends_with_the_pictures(tmp_path, preset, rate):
    times = [0.5, 1.0, 3.75]
    film = assemble([Shot(STILL, Fraction(4))], 23.976, sound=clicks(times, 9, rate))
    from video import preset_named

    path = tmp_path / f"film.{preset_named(preset).extension}"
    encode(film, path, preset)
    samples = decoded(path)
    got = onsets(samples)
    assert len(got) == 3
    assert np.abs(np.array(got) - times).max() < 0.003
    assert abs(len(samples) / RATE - float(film.seconds)) < 0.03


def test_no_drift_over_ten_minutes(tmp_path):
    """At 24000/1001 a rate written as 23.98 would be 90 ms off here."""
    film = assemble(
        [Shot(still(texture(16, 16)), Fraction(600))], 23.976, sound=clicks([1, 599], 600, 8000)
    )
    path = tmp_path / "long.mp4"
    encode(film, path, "h264_draft")
    got = onsets(decoded(path))
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        lengths = [float(s.duration * Fraction(s.time_base)) for s in (video, audio)]
    assert np.abs(np.array(got) - [1, 599]).max() < 0.003
    assert lengths[0] == pytest.approx(float(film.seconds), abs=1e-9)
    assert abs(lengths[0] - lengths[1]) < 0.001


def test_sound_lies_beside_its_pictures_in_the_file(tmp_path):
    """Packets in file order never run more than a second apart, so streaming can begin."""
    film = assemble([Shot(STILL, Fraction(20))], 24, sound=tone(20))
    path = tmp_path / "film.mp4"
    encode(film, path, "h264")
    newest = {"video": 0.0, "audio": 0.0}
    gap = 0.0
    with av.open(str(path)) as container:
        for packet in sorted((p for p in container.demux() if p.size), key=lambda p: p.pos):
            newest[packet.stream.type] = float(packet.dts * packet.time_base)
            gap = max(gap, abs(newest["video"] - newest["audio"]))
    assert gap < 1.0


def test_sound_of_files(tmp_path):
    path = tmp_path / "film.mkv"
    film = assemble([Shot(STILL, Fraction(4))], 24, sound=clicks([0.25, 2.5, 3.5], 4))
    encode(film, path, "ffv1")  # FLAC: exact but for 16 bit
    whole = sound_of_file(str(path), Fraction(0), Fraction(4))
    shot = Shot(open_video(str(path)), sound=whole)
    got = mixed(assemble([shot], 24))
    assert (whole.rate, whole.channels) == (RATE, 1)
    assert np.abs(got - mixed(film)).max() < 1e-4
    part = sound_of_file(str(path), Fraction(9, 4), Fraction(1))
    got = mixed(assemble([Shot(STILL, Fraction(2), sound=part)], 24))
    assert onsets(got[0]) == [0.25]
    assert not got[:, RATE:].any()


def test_a_film_as_sound_of_a_film():
    inner = assemble([Shot(STILL, Fraction(2), sound=tone(2))], 24)
    outer = assemble([Shot(FilmSource(inner), sound=sound_of_film(inner))], 24)
    assert np.array_equal(mixed(outer), mixed(inner))
    assert np.allclose(mixed(outer.trimmed(12)), mixed(inner)[:, RATE // 2 :], atol=1e-7)


def test_silent_films_have_no_sound_stream(tmp_path):
    film = clip(np.stack([texture(32, 32)] * 3))
    encode(film, tmp_path / "film.mp4")
    assert sound_format(film) is None
    assert sound_of_file(str(tmp_path / "film.mp4"), Fraction(0), Fraction(1)) is None
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert not container.streams.audio


@pytest.mark.parametrize(
    "shape, rate, message",
    [((3, 10), 48000, "1, 2 or 6 channels"), ((10,), 48000, "channels"), ((1, 10), 3, "rate of 3")],
)
def test_bad_sounds_are_named(shape, rate, message):
    with pytest.raises(VideoError, match=message):
        Samples(np.zeros(shape, np.float32), rate)
