"""Transitions against FFmpeg's xfade and against what every one of them has to keep."""

from fractions import Fraction

import numpy as np
import pytest

from tests.unit.video.conftest import noise, rendered, still, texture
from video import TRANSITIONS, Shot, Transition, VideoError, assemble, make_transition
from video.transitions import blend

WIDTH, HEIGHT = 96, 54
BLENDS = [name for name, kind in TRANSITIONS.items() if kind.mix is not None]
WIPES = [name for name in BLENDS if name.startswith(("wipe", "circle"))]


@pytest.fixture(scope="module")
def pair():
    return noise(WIDTH, HEIGHT, 1), noise(WIDTH, HEIGHT, 2)


def mixed(pair, kind: str, t: float, softness: float = 0.0) -> np.ndarray:
    return blend(*pair, Transition(kind, Fraction(1), "linear", softness), t)


def test_crossfade_equals_xfade(pair, xfade):
    """xfade rounds down; we round to nearest: at most one level between them."""
    for index, theirs in enumerate(xfade(*pair, "fade", 10)):
        ours = mixed(pair, "crossfade", index / 10).astype(int)
        assert np.abs(ours - theirs).max() <= 1
        exact = pair[0] + (pair[1].astype(float) - pair[0]) * (index / 10)
        assert np.abs(ours - exact).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(
    "kind, theirs",
    [
        ("wipe_left", "wipeleft"),
        ("wipe_right", "wiperight"),
        ("wipe_up", "wipeup"),
        ("wipe_down", "wipedown"),
    ],
)
def test_hard_wipes_equal_xfade(pair, xfade, kind, theirs):
    """The edge may lie one column or row beside xfade's, which rounds its place down."""
    for index, other in enumerate(xfade(*pair, theirs, 8)):
        different = (mixed(pair, kind, index / 8) != other).any(axis=2)
        lines = different.any(axis=0) if kind in ("wipe_left", "wipe_right") else different.any(1)
        assert lines.sum() <= 1, f"{kind} at {index}/8"


@pytest.mark.parametrize(
    "kind, theirs",
    [
        ("wipe_left", "smoothleft"),
        ("wipe_right", "smoothright"),
        ("wipe_up", "smoothup"),
        ("wipe_down", "smoothdown"),
    ],
)
def test_soft_wipes_equal_xfade(pair, xfade, kind, theirs):
    """xfade's smooth wipes are ours at softness 1, half a pixel apart: 3/2 * 1/2 / 54 of 255."""
    for index, other in enumerate(xfade(*pair, theirs, 8)):
        ours = mixed(pair, kind, index / 8, softness=1.0).astype(int)
        assert np.abs(ours - other).max() <= 5, f"{kind} at {index}/8"


@pytest.mark.parametrize("kind", BLENDS)
@pytest.mark.parametrize("softness", [0.0, 0.05, 0.3, 1.0])
def test_every_transition_begins_with_a_and_ends_with_b(pair, kind, softness):
    a, b = pair
    assert np.array_equal(mixed(pair, kind, 0.0, softness), a)
    assert np.array_equal(mixed(pair, kind, 1.0, softness), b)


@pytest.mark.parametrize("kind", WIPES)
def test_hard_wipes_only_choose_and_only_go_forward(pair, kind):
    a, b = pair
    before = np.zeros((HEIGHT, WIDTH), bool)
    for t in np.linspace(0, 1, 21):
        picture = mixed(pair, kind, float(t))
        from_a, from_b = (picture == a).all(2), (picture == b).all(2)
        assert (from_a | from_b).all()
        assert not (before & ~from_b).any()
        before = from_b


@pytest.mark.parametrize("kind", WIPES)
def test_soft_wipes_follow_their_formula(pair, kind):
    """weight = smoothstep((t (1 + s) - m) / s); m is measured from the hard wipe."""
    a, b = (np.zeros_like(pair[0]), np.full_like(pair[1], 255))
    steps = np.linspace(0, 1, 1001)
    field = np.zeros((HEIGHT, WIDTH))
    for t in steps:  # the last progress at which the point still shows a
        field[(mixed((a, b), kind, float(t)) == 0).all(2)] = t
    for t, softness in ((0.3, 0.2), (0.6, 0.5)):
        x = np.clip((t * (1 + softness) - field) / softness, 0, 1)
        expected = 255 * x * x * (3 - 2 * x)
        ours = mixed((a, b), kind, t, softness)[..., 0]
        assert np.abs(ours - expected).max() <= 0.5 + 255 * 1.5 * 0.001 / softness


@pytest.mark.parametrize("kind", ["fade_black", "fade_white"])
def test_fades_pass_through_their_colour(pair, kind):
    middle = mixed(pair, kind, 0.5)
    assert (middle == (0 if kind == "fade_black" else 255)).all()
    quarter = mixed(pair, kind, 0.25).astype(float)
    assert np.abs(quarter - (pair[0] / 2.0 + middle / 2.0)).max() <= 0.5


def test_easing_moves_the_progress(pair):
    plain, smooth = (
        blend(*pair, Transition("crossfade", Fraction(1), easing), t)
        for easing, t in (("linear", 0.15625), ("smooth", 0.25))
    )
    assert np.array_equal(plain, smooth)


def test_inputs_stay_untouched_and_may_be_read_only(pair):
    a, b = (picture.copy() for picture in pair)
    for picture in (a, b):
        picture.flags.writeable = False
    for kind in BLENDS:
        blend(a, b, Transition(kind, Fraction(1), softness=0.2), 0.4)
    assert np.array_equal(a, pair[0]) and np.array_equal(b, pair[1])


def test_progress_in_a_film_is_even():
    black, white = (np.full((8, 8, 3), level, np.uint8) for level in (0, 200))
    film = assemble(
        [Shot(still(black), Fraction(1)), Shot(still(white), Fraction(1))],
        24,
        transition=make_transition("crossfade", Fraction(9, 24)),
    )
    levels = rendered(film)[:, 0, 0, 0]
    assert film.frame_count == 39
    assert list(levels[14:26]) == [0, *range(20, 200, 20), 200, 200]


def test_cuts_and_holds_are_the_same_array():
    from video import Renderer

    film = assemble([Shot(still(texture(32, 32, n)), Fraction(1, 2)) for n in range(2)], 24)
    with Renderer(film) as renderer:
        frames = list(renderer.frames())
    assert len({id(frame) for frame in frames[:12]}) == 1
    assert len({id(frame) for frame in frames[12:]}) == 1
    assert np.array_equal(frames[0], texture(32, 32, 0))


@pytest.mark.parametrize(
    "settings, message",
    [
        (("swirl", 1.0), "Unknown transition 'swirl': use one of cut, crossfade"),
        (("crossfade", -1.0), "transition duration -1.0 is negative"),
        (("crossfade", float("nan")), "transition duration nan is not a number"),
        (("crossfade", 1.0, "bouncy"), "Unknown easing 'bouncy'"),
        (("wipe_left", 1.0, "linear", 2.0), "softness of 2 is out of range"),
    ],
)
def test_bad_transitions_are_named(settings, message):
    with pytest.raises(VideoError, match=message):
        make_transition(*settings)
