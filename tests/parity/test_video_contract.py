"""What newer cores ask of a VIDEO: crops and sizes that cost nothing, codecs, speeds, edits."""

# ruff: noqa: F811

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from tests.parity.test_lazy_video import (  # noqa: F401
    FRAMES,
    HEIGHT,
    WIDTH,
    house,
    lazy,
    moving_batch,
)


def pictures(video) -> np.ndarray:
    return (video.get_components().images * 255).round().numpy().astype(int)


def test_crops_and_sizes_make_no_frame(house, lazy, monkeypatch):
    monkeypatch.setattr(house.video.Renderer, "frame", None)
    cut = lazy.as_cropped(11, 7, 40, 31).as_resized(100, 30, "lanczos", "center", (3, 5, 51, 20))
    assert cut.get_dimensions() == cut.get_display_dimensions() == (51, 20)
    assert (cut.get_frame_count(), cut.get_frame_rate()) == (FRAMES, Fraction(24000, 1001))
    assert not cut.has_pending_frame_edits()
    assert cut.as_trimmed(0.5, 0.5).get_frame_count() == 12
    assert lazy.as_cropped() is lazy
    assert lazy.as_cropped(0, 0, 5000, 5000) is lazy


@pytest.mark.parametrize(
    "asked, rect",
    [
        ((10, 6, 40, 30), (10, 6, 40, 30)),
        ((11, 7, 41, 31), (10, 6, 40, 30)),  # even, as core's own crop
        ((-5, 90, 20, 20), (0, 62, 20, 2)),
        ((90, 0, 50, 50), (90, 0, 6, 50)),
    ],
)
def test_crops_are_those_of_core(lazy, asked, rect):
    left, top, width, height = rect
    got = lazy.as_cropped(*asked)
    wanted = pictures(lazy)[:, top : top + height, left : left + width]
    assert np.array_equal(pictures(got), wanted)
    sounds = (v.get_components().audio["waveform"] for v in (got, lazy))
    assert torch.equal(*sounds)


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop", ["disabled", "center"])
@pytest.mark.parametrize("size", [(WIDTH * 2, HEIGHT * 2), (48, 48)])
def test_sizes_are_those_of_core(comfy, lazy, method, crop, size):
    """Larger: core's pixels. Smaller: ours are averaged, which on a smooth picture is the same."""
    import comfy.utils

    images = lazy.get_components().images
    wanted = comfy.utils.common_upscale(images.movedim(-1, 1), *size, method, crop).movedim(1, -1)
    got = lazy.as_resized(*size, method, crop).get_components().images
    assert got.shape == wanted.shape
    assert (got - wanted).abs().mean() < 2.5 / 255


def test_bad_edits_are_named(lazy):
    with pytest.raises(ValueError, match="Unknown way to resize 'magic': use one of nearest"):
        lazy.as_resized(10, 10, "magic")
    with pytest.raises(ValueError, match="crop of 90x10 at 20, 0 is not inside a film of 100x30"):
        lazy.as_resized(100, 30, "area", post_crop=(20, 0, 90, 10))
    with pytest.raises(ValueError, match="out of range"):
        lazy.as_resized(0, 99999, "area")


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.webm"])
def test_av1(lazy, tmp_path, name):
    lazy.save_to(str(tmp_path / name), codec="av1", crf=20.0)
    with av.open(str(tmp_path / name)) as container:
        assert container.streams.video[0].codec_context.name in ("libdav1d", "av1")
        assert len(container.streams.audio) == 1
        assert sum(1 for _ in container.decode(video=0)) == FRAMES


def test_speeds_and_colours(lazy, tmp_path):
    sizes = {}
    for speed in ("ultrafast", "slow"):
        path = tmp_path / f"{speed}.mp4"
        lazy.save_to(str(path), preset=speed, color_space="sRGB")
        data = path.read_bytes()
        sizes[speed] = (b"cabac=1" in data, b"subme=0" in data)
    assert sizes == {"ultrafast": (False, True), "slow": (True, False)}
    with pytest.raises(ValueError, match="Unknown encoder speed 'warp': use one of ultrafast"):
        lazy.save_to(str(tmp_path / "x.mp4"), preset="warp")
    lazy.save_to(str(tmp_path / "hdr.mp4"), color_space="HDR PQ")  # SDR pixels stay what they are
    with av.open(str(tmp_path / "hdr.mp4")) as container:
        assert container.streams.video[0].codec_context.color_trc == 1


@pytest.mark.parametrize("share", [0.25, 0.0])
def test_edits_of_core_that_wait_are_honoured(house, lazy, tmp_path, monkeypatch, share):
    """As newer cores crop a file: the stream is unedited, components and saving are not."""
    monkeypatch.setattr(house.films, "EDIT_SHARE", share)
    path = tmp_path / "core.mp4"
    lazy.save_to(str(path), crf=1.0)

    class Cropped(house.InputImpl.VideoFromFile):
        def has_pending_frame_edits(self):
            return True

        def get_dimensions(self):
            return 32, 16

        def get_components(self):
            whole = super().get_components()
            whole.images = whole.images[:, 8:24, 10:42]
            return whole

        def save_to(self, path, **settings):
            house.InputImpl.VideoFromComponents(self.get_components()).save_to(path, **settings)

    shot = house.films.shot_of_video(Cropped(str(path)))
    assert shot.source.size() == (32, 16) and shot.sound is not None
    film = house.films.film_of_video(Cropped(str(path)))
    got = pictures(house.lazy.LazyVideo(film))
    assert got.shape[0] == FRAMES
    assert np.abs(got - pictures(lazy)[:, 8:24, 10:42]).mean() < 3


def test_a_variable_rate_keeps_its_frames(house, tmp_path):
    from tests.unit.video.test_sources import write

    times = [0, 1000, *(2000 + round(n * 1000 / 60) for n in range(20)), 5000]
    frames = np.stack([np.full((32, 32, 3), 9 * n, np.uint8) for n in range(len(times))])
    video = house.InputImpl.VideoFromFile(str(write(tmp_path / "s.mkv", frames, times=times)))
    film = house.films.film_of_video(video)
    with house.video.Renderer(film) as renderer:
        levels = {int(frame[16, 16, 1]) for frame in renderer.frames()}
    assert len(levels) == len(times)


def test_a_film_too_large_for_memory_is_cropped(house, comfy):
    """The default of core would make an IMAGE of all its frames first."""
    still = house.video.pictures_from_tensor(moving_batch(1))
    film = house.video.assemble([house.video.Shot(still, Fraction(3600))], 24, 2048, 1024)
    cut = house.lazy.LazyVideo(film).as_cropped(0, 0, 1024, 512).as_resized(64, 32, "area")
    part = cut.as_trimmed(1800.0, 0.25)
    assert part.get_components().images.shape == (6, 32, 64, 3)
