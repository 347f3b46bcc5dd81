"""Camera moves: where the picture lands, to a fraction of a pixel, and what stays untouched."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.unit.video.conftest import noise, rendered, still, texture
from video import MOVES, Move, Shot, VideoError, View, assemble, camera_move
from video.framing import Framer

WIDTH, HEIGHT = 160, 90


def blob(width: int, height: int, x: float, y: float, sigma: float = 6.0) -> np.ndarray:
    v, u = np.mgrid[0:height, 0:width] + 0.5
    level = 250 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))
    return np.repeat(level[..., None], 3, axis=2).round().astype(np.uint8)


def centroid(frame: np.ndarray) -> tuple[float, float]:
    level = frame[..., 0].astype(np.float64)
    v, u = np.mgrid[0 : frame.shape[0], 0 : frame.shape[1]] + 0.5
    return (u * level).sum() / level.sum(), (v * level).sum() / level.sum()


def frames(picture, move, count=48, fit="fill", size=(WIDTH, HEIGHT)):
    shot = Shot(still(picture), Fraction(count, 24), camera=move, fit=fit)
    return rendered(assemble([shot], 24, *size))


@pytest.mark.parametrize("name", [n for n in MOVES if n != "none"])
def test_blob_is_where_the_window_says_within_a_fiftieth_pixel(name):
    """No whole-pixel steps: those would be off by up to half a pixel."""
    x, y = 84.3, 41.8
    move = camera_move(name, 0.15, "linear")
    picture = blob(WIDTH, HEIGHT, x, y)
    from video.camera import Window

    widest = Window(0, 0, WIDTH, HEIGHT)
    for index, frame in enumerate(frames(picture, move)):
        window = move.window(index / 47, widest, WIDTH, HEIGHT)
        expected_x = (x - window.left) / window.width * WIDTH
        expected_y = (y - window.top) / window.height * HEIGHT
        got = centroid(frame)
        assert abs(got[0] - expected_x) < 0.02
        assert abs(got[1] - expected_y) < 0.02


def test_a_zoom_keeps_its_speed_and_its_fixed_point():
    move = Move(View(0.3, 0.4, 1.0), View(0.6, 0.7, 4.0), "linear")
    from video.camera import Window

    widest = Window(0, 0, WIDTH, HEIGHT)
    windows = [move.window(t, widest, WIDTH, HEIGHT) for t in np.linspace(0, 1, 25)]
    ratios = [b.width / a.width for a, b in zip(windows, windows[1:], strict=False)]
    assert np.ptp(ratios) < 1e-9
    first, last = windows[0], windows[-1]
    fixed = (first.left * last.width - last.left * first.width) / (last.width - first.width)
    place = [(fixed - w.left) / w.width for w in windows]
    assert np.ptp(place) < 1e-9


@pytest.mark.parametrize("name", [n for n in MOVES if n != "none"])
@pytest.mark.parametrize("amount", [0.0, 0.15, 3.0])
@pytest.mark.parametrize("shape", [(160, 90), (100, 400), (400, 100)])
def test_windows_stay_inside_the_picture(name, amount, shape):
    from video.framing import _widest

    move = camera_move(name, amount)
    widest = _widest("fill", *shape, (WIDTH, HEIGHT))
    for t in np.linspace(0, 1, 11):
        window = move.window(t, widest, *shape)
        assert window.left >= -1e-9 and window.top >= -1e-9
        assert window.left + window.width <= shape[0] + 1e-9
        assert window.top + window.height <= shape[1] + 1e-9
        assert window.width / window.height == pytest.approx(WIDTH / HEIGHT)


def test_a_still_camera_over_a_fitting_picture_hands_the_picture_on():
    picture = noise(WIDTH, HEIGHT)
    for fit in ("fill", "fit", "stretch"):
        framer = Framer(fit, None, WIDTH, HEIGHT)
        assert framer.frame(picture, 0.0) is picture
        assert framer.frame(picture, 0.7) is picture
    zoom = Framer("fill", camera_move("zoom_in", 0.2), WIDTH, HEIGHT)
    assert zoom.frame(picture, 0.0) is picture
    assert zoom.frame(picture, 1.0) is not picture


def test_whole_pixel_pans_copy_pixels():
    picture = noise(WIDTH + 47, HEIGHT)
    move = camera_move("pan_right", 0.0, "linear")
    for index, frame in enumerate(frames(picture, move, count=48)):
        assert np.array_equal(frame, picture[:, index : index + WIDTH])


def test_pan_over_a_tall_picture_uses_its_height():
    picture = texture(WIDTH, HEIGHT * 3)
    shown = frames(picture, camera_move("pan_down", 0.0))
    assert np.array_equal(shown[0], picture[:HEIGHT])
    assert np.array_equal(shown[-1], picture[-HEIGHT:])


def test_resampling_equals_torch_bicubic():
    """Enlarging only; torch's kernel (a = -0.75) is a little sharper than Pillow's (a = -0.5)."""
    picture = texture(WIDTH, HEIGHT)
    shown = frames(picture, camera_move("zoom_in", 1.0, "linear"), count=2)[-1]
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    theta = torch.tensor([[[0.5, 0, 0], [0, 0.5, 0]]])
    grid = torch.nn.functional.affine_grid(theta, [1, 3, HEIGHT, WIDTH], align_corners=False)
    other = torch.nn.functional.grid_sample(
        tensor, grid, mode="bicubic", padding_mode="border", align_corners=False
    )
    difference = np.abs(shown.astype(float) - other[0].permute(1, 2, 0).clamp(0, 255).numpy())
    assert difference.max() < 2.0 and difference.mean() < 0.5


def test_shrinking_filters_instead_of_skipping():
    """A one-pixel checkerboard becomes grey, under a moving camera and without one."""
    picture = np.zeros((HEIGHT * 4, WIDTH * 4, 3), np.uint8)
    picture[::2, ::2] = picture[1::2, 1::2] = 255
    for move in (None, camera_move("zoom_in", 0.3)):
        for frame in frames(picture, move, count=5):
            assert np.abs(frame[8:-8, 8:-8].astype(int) - 128).max() <= 3


def test_shrinking_early_does_not_move_the_picture():
    picture = blob(WIDTH * 8, HEIGHT * 8, 300.0, 500.0, sigma=40)
    move = camera_move("zoom_in", 0.15, "linear")
    from video.camera import Window

    widest = Window(0, 0, WIDTH * 8, HEIGHT * 8)
    for index, frame in enumerate(frames(picture, move, count=9)):
        window = move.window(index / 8, widest, WIDTH * 8, HEIGHT * 8)
        got = centroid(frame)
        assert abs(got[0] - (300 - window.left) / window.width * WIDTH) < 0.02
        assert abs(got[1] - (500 - window.top) / window.height * HEIGHT) < 0.02


@pytest.mark.parametrize("shape", [(64, 64), (640, 90), (33, 200)])
def test_fits(shape):
    picture = np.full((shape[1], shape[0], 3), 200, np.uint8)
    fill, fit, stretch = (frames(picture, None, 1, name)[0] for name in ("fill", "fit", "stretch"))
    assert (fill == 200).all() and (stretch == 200).all()
    inside = (fit == 200).all(2)
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    assert inside.sum() == rows * columns  # one rectangle with hard edges
    assert (fit[~inside] == 0).all()
    assert rows == HEIGHT or columns == WIDTH
    assert columns / rows == pytest.approx(shape[0] / shape[1], rel=0.07)


def test_fit_with_a_camera_keeps_its_bars_outside():
    picture = np.full((90, 90, 3), 200, np.uint8)
    shown = frames(picture, camera_move("zoom_in", 1.0, "linear"), 3, fit="fit")
    assert (shown[0][:, :30] < 3).all() and (shown[0][:, 70:90] > 197).all()
    assert (shown[-1][:, 80] > 197).all()


@pytest.mark.parametrize(
    "settings, message",
    [
        (("fly", 0.1), "Unknown camera move 'fly'"),
        (("zoom_in", -0.5), "camera amount of -0.5"),
        (("zoom_in", 99.0), "camera amount of 99"),
        (("zoom_in", 0.1, "wobble"), "Unknown easing 'wobble'"),
    ],
)
def test_bad_moves_are_named(settings, message):
    with pytest.raises(VideoError, match=message):
        camera_move(*settings)
