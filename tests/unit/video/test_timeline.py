"""Which frame shows what: exact for every rate and length, and bad films are named."""

import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tests.unit.video.conftest import clip, moving, rendered, still, texture
from video import Pictures, Shot, Transition, VideoError, assemble, exact_rate, make_transition
from video.timeline import Timeline

PICTURE = still(texture(16, 16))


def film_of(durations, overlaps, fps) -> Timeline:
    shots = [Shot(PICTURE, Fraction(d)) for d in durations]
    joints = [Transition("crossfade", Fraction(o)) if o else Transition() for o in overlaps]
    return Timeline(tuple(shots), tuple(joints), exact_rate(fps), 16, 16)


@pytest.mark.parametrize(
    "fps, expected",
    [
        (23.976, Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (119.88, Fraction(120000, 1001)),
        ("30000/1001", Fraction(30000, 1001)),
        (Fraction(29.97), Fraction(30000, 1001)),
        (24, Fraction(24)),
        (24.0, Fraction(24)),
        (12.5, Fraction(25, 2)),
        (7.25, Fraction(29, 4)),
        (1, Fraction(1)),
    ],
)
def test_rates_are_what_people_mean(fps, expected):
    assert exact_rate(fps) == expected


@pytest.mark.parametrize("fps", [0, -24, "fast", float("nan"), float("inf"), "1/0", 5000, None])
def test_bad_rates_are_named(fps):
    with pytest.raises(VideoError, match="fps"):
        exact_rate(fps)


def test_an_hour_at_23_976_does_not_drift():
    """3600 one-second shots: every boundary is the nearest frame to its exact second."""
    film = film_of([1] * 3600, [0] * 3599, 23.976)
    fps = Fraction(24000, 1001)
    assert film.frame_count == 86314  # 3600 * 24000 / 1001 = 86313.69
    for number, span in enumerate(film.spans):
        assert abs(span.start - number * fps) <= Fraction(1, 2)
    assert [b.start for b in film.spans[1:]] == [a.stop for a in film.spans[:-1]]


@pytest.mark.parametrize("seed", range(40))
def test_every_frame_of_random_films(seed):
    rng = random.Random(seed)
    fps = rng.choice([12, 23.976, 24, 25, 29.97, 59.94, 7.5])
    overlaps = [rng.choice([0, Fraction(rng.randint(1, 500), 1000)]) for _ in range(5)]
    durations = [
        Fraction(rng.randint(150, 2000), 1000) + a + b
        for a, b in zip([0, *overlaps], [*overlaps, 0], strict=True)
    ]
    film = film_of(durations, overlaps, fps)
    length = sum(durations) - sum(overlaps)
    assert abs(film.frame_count - length * film.fps) <= Fraction(1, 2)
    starts = [sum(durations[:k]) - sum(overlaps[:k]) for k in range(6)]
    shown = [set() for _ in durations]
    for index in range(film.frame_count):
        at = film.frame_at(index)
        for moment in (at.showing, at.entering):
            if moment is None:
                continue
            shown[moment.shot].add(moment.index)
            exact = starts[moment.shot] + moment.index / film.fps
            assert abs(exact - index / film.fps) <= Fraction(1, 2) / film.fps
            assert 0 <= moment.progress <= 1
        if at.entering is not None:
            assert at.entering.shot == at.showing.shot + 1
            assert 0 < at.progress < 1
    for span, indices in zip(film.spans, shown, strict=True):
        assert indices == set(range(span.count))  # no frame of a shot is lost or repeated


def test_trimming_shifts_frames_and_nests():
    film = film_of([2, 2, 2], [Fraction(1, 2), Fraction(1, 4)], 24)
    part = film.trimmed(30, 60).trimmed(5)
    assert part.frame_count == 55
    assert [part.frame_at(i) for i in range(55)] == [film.frame_at(35 + i) for i in range(55)]
    assert film.trimmed(10, 10_000).frame_count == film.frame_count - 10
    with pytest.raises(VideoError, match="leaves none"):
        film.trimmed(film.frame_count)
    with pytest.raises(IndexError):
        part.frame_at(55)


def test_natural_lengths():
    """Three seconds for a still, a film frame per picture of a batch."""
    batch = Pictures(moving(10))
    film = assemble([Shot(PICTURE), Shot(batch)], 25)
    assert [span.count for span in film.spans] == [75, 10]


def test_a_batch_spreads_over_its_duration():
    batch = np.stack([np.full((8, 8, 3), 10 * n, np.uint8) for n in range(5)])
    film = assemble([Shot(Pictures(batch), Fraction(1, 2))], 24)
    levels = rendered(film)[:, 0, 0, 0].tolist()
    assert levels == sorted(levels) and len(levels) == 12
    assert [levels.count(10 * n) for n in range(5)] == [3, 2, 3, 2, 2]


def test_size_comes_from_the_first_shot_or_keeps_its_shape():
    shots = [Shot(still(texture(64, 36))), Shot(still(texture(100, 100)))]
    sizes = [(0, 0), (32, 0), (0, 18), (50, 40)]
    films = [assemble(shots, 24, width, height) for width, height in sizes]
    assert [(f.width, f.height) for f in films] == [(64, 36), (32, 18), (32, 18), (50, 40)]


def test_a_shot_keeps_its_own_transition():
    shots = [
        Shot(PICTURE, Fraction(1)),
        Shot(PICTURE, Fraction(1)),
        Shot(PICTURE, Fraction(1), transition=make_transition("wipe_up", 0.25)),
        Shot(PICTURE, Fraction(1), transition=make_transition("cut", 0.25)),
    ]
    film = assemble(shots, 24, transition=make_transition("crossfade", 0.5))
    assert [joint.kind for joint in film.transitions] == ["crossfade", "wipe_up", "cut"]
    assert film.frame_count == 96 - 12 - 6


def test_effects_are_applied_in_order():
    def inverted(picture, moment):
        return 255 - picture

    def marked(picture, moment):
        return np.where(moment.index == 0, np.uint8(7), picture)

    shot = replace(Shot(PICTURE, Fraction(1, 12)), effects=(inverted, marked))
    first, second = rendered(assemble([shot], 24))
    assert (first == 7).all()
    assert np.array_equal(second, 255 - texture(16, 16))


@pytest.mark.parametrize(
    "shots, settings, message",
    [
        ([], {}, "no shots: connect at least one"),
        ([Shot(PICTURE, Fraction(1, 100))], {}, "Shot 1 lasts 0.01 s, less than one frame"),
        ([Shot(PICTURE, fit="squeeze")], {}, "Shot 1: unknown fit 'squeeze', use fill"),
        ([Shot(PICTURE)], {"width": 20_000, "height": 10}, "20000x10 is out of range"),
        (
            [Shot(PICTURE, Fraction(d)) for d in (2, 1, 2)],
            {"transition": Transition("crossfade", Fraction(3, 4))},
            r"Shot 2 lasts 1 s but its transitions take 0.75 \+ 0.75 s",
        ),
    ],
)
def test_bad_films_are_named(shots, settings, message):
    with pytest.raises(VideoError, match=message):
        assemble(shots, 24, **settings)


def test_going_back_and_forth_gives_the_same_frames():
    from video import Renderer

    film = clip(moving(12))
    film = assemble(
        [*film.shots, Shot(PICTURE, Fraction(1))], 24, transition=make_transition("crossfade", 0.25)
    )
    straight = rendered(film)
    order = list(range(film.frame_count))
    random.Random(3).shuffle(order)
    with Renderer(film) as renderer:
        for index in order:
            assert np.array_equal(renderer.frame(index), straight[index])
