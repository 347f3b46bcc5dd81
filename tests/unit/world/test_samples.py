"""Samples: the same everywhere, true to their labels, and never showing what is held out."""

from dataclasses import replace

import numpy as np
import pytest

from demo.world import (
    ACTIONS,
    REGIONS,
    STUDIO,
    Background,
    Draws,
    Motion,
    Scene,
    character_held_out,
    cloth_held_out,
    draw_pose,
    draw_sample,
    draw_scene,
    garment,
    held_out,
    palette,
    plate,
    portrait,
    render,
    sequence,
    specs,
)
from demo.world import labels as L
from demo.world.backgrounds import KINDS, PALETTES
from demo.world.skeleton import L_ANKLE, L_EAR, L_WRIST, NOSE, R_ANKLE, R_EAR, R_WRIST


def test_a_seed_gives_one_sample():
    first, second = draw_sample(7), draw_sample(7)
    assert np.array_equal(first.rendered.picture, second.rendered.picture)
    assert np.array_equal(first.rendered.regions, second.rendered.regions)
    assert (first.caption, first.labels) == (second.caption, second.labels)
    assert draw_sample(7, split="test").caption != first.caption


def test_samples_are_the_same_on_every_machine():
    # Written down once; scenes and captions use no arithmetic that machines may round differently.
    sample = draw_sample(11)
    assert sample.caption == GOLDEN_CAPTION
    assert "/".join(sample.labels.values()) == GOLDEN_LABELS


GOLDEN_CAPTION = "a person, brown skin, white shoes, with arms up"
GOLDEN_LABELS = (
    "brown/silver/pigtails/none/average/shirt/red/stripes/blue/"
    "trousers/pink/dots/white/white/room/pink/arms up"
)


def test_regions_share_every_pixel_and_follow_the_skeleton():
    for seed in range(40):
        sample = draw_sample(seed, 128)
        rendered, points = sample.rendered, sample.rendered.keypoints
        assert rendered.picture.shape == (128, 128, 3) and rendered.picture.dtype == np.uint8
        total = sum(rendered.mask(name).astype(int) for name in REGIONS)
        assert (total == 1).all()
        assert points[:14, 2].all(), "the whole body is in view"
        x, y = points[NOSE, :2].astype(int)
        assert rendered.regions[y, x] != 0
        head = np.argwhere(rendered.mask("head")).mean(axis=0)[::-1]
        ears = np.array([p for p in points[[R_EAR, L_EAR]] if p[2]])[:, :2].mean(axis=0)
        assert np.linalg.norm(head - ears) < 0.14 * sample.pose.unit * 128
        feet = np.argwhere(rendered.mask("feet"))[:, ::-1]
        for ankle in points[[R_ANKLE, L_ANKLE], :2]:
            assert np.linalg.norm(feet - ankle, axis=1).min() < 0.08 * sample.pose.unit * 128


def test_hands_are_at_the_wrists_when_they_show():
    for seed in range(40):
        sample = draw_sample(seed, 128, action="arms up")
        hands = np.argwhere(sample.rendered.mask("hands"))[:, ::-1]
        for wrist in sample.rendered.keypoints[[R_WRIST, L_WRIST], :2]:
            assert np.linalg.norm(hands - wrist, axis=1).min() < 0.07 * sample.pose.unit * 128


def test_a_scene_looks_the_same_at_every_size():
    sample = draw_sample(3, 128)
    large = render(sample.scene, sample.pose, 512)
    small = large.picture.reshape(128, 4, 128, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - sample.rendered.picture).mean() < 4
    assert np.allclose(large.keypoints[:, :2] / 4, sample.rendered.keypoints[:, :2], atol=1e-3)


def test_wide_pictures_keep_people_in_view():
    for seed in range(20):
        sample = draw_sample(seed, (224, 128))
        assert sample.rendered.picture.shape == (128, 224, 3)
        assert sample.rendered.keypoints[:14, 2].all()


def test_the_person_stands_in_front_of_the_empty_plate():
    for seed in range(12):
        sample = draw_sample(seed, 128, action="dancing")
        empty = plate(sample.scene.background, 128).picture.astype(int)
        around = sample.rendered.mask("background")
        same = (np.abs(sample.rendered.picture - empty).max(axis=2) < 2)[around]
        assert same.mean() > 0.94, "only the shadow on the ground and the rim may differ"


def test_pose_changes_nothing_but_the_pose():
    sample = draw_sample(5)
    frames = sequence(sample.scene, Motion("disco"), 6, fps=6)
    corners = [frame.picture[:24, :24] for frame in frames]
    assert all(np.array_equal(corners[0], corner) for corner in corners)
    assert not np.array_equal(frames[0].picture, frames[3].picture)
    start, end = (Motion("walk", travel=0.1).pose(t) for t in (0.0, 1.6))
    assert np.allclose(end.points - start.points, [0.16, 0], atol=1e-6), "a cycle closes"


def test_every_action_can_be_drawn_and_motions_are_smooth():
    for action in ACTIONS:
        assert draw_pose(Draws(1, 2), action).action == action
    for name in ("walk", "sway", "disco", "kick", "wave", "jump", "greet"):
        points = np.stack([Motion(name).pose(i / 24).points for i in range(48)])
        assert np.abs(np.diff(points, axis=0)).max() < 0.09, name


def test_training_never_sees_what_is_held_out():
    drawn = [draw_scene(Draws.for_sample(seed, "train"), "train") for seed in range(800)]
    assert not any(held_out(scene) for scene in drawn)
    tested = [draw_scene(Draws.for_sample(seed, "test"), "test") for seed in range(400)]
    share = sum(held_out(scene) for scene in tested) / 400
    assert 0.2 < share < 0.5
    assert any(character_held_out(scene.character) for scene in tested)
    assert any(cloth_held_out(scene.attire.upper) for scene in tested)
    # Every single value is trained; only pairs and triples are kept back.
    assert {s.character.hair_colour for s in drawn} == set(palette.HAIR)
    assert {s.character.hair_style for s in drawn} == set(specs.HAIR_STYLES)
    assert {s.attire.upper.colour for s in drawn} == set(palette.CLOTH)
    assert {s.attire.upper.pattern for s in drawn} == set(specs.PATTERNS)
    assert {(s.background.kind, s.background.tone) for s in drawn} | {("plain", "grey")} == set(
        PALETTES
    )


def test_reference_pictures_show_one_thing():
    scene = draw_sample(9).scene
    face = portrait(scene.character)
    assert face.mask("head").mean() > 0.15 and not face.mask("feet").any()
    doll = garment(scene.attire)
    assert not doll.part_mask(*L.HAIR_PARTS, L.EYE).any()
    skin = doll.picture[doll.part_mask(L.SKIN_HEAD)]
    assert np.abs(np.median(skin, axis=0) - palette.MANNEQUIN).max() < 3
    assert (plate(STUDIO).picture == palette.STUDIO).all()


def test_one_attribute_can_be_changed_alone():
    sample = draw_sample(21)
    scene = sample.scene
    other = Scene(replace(scene.character, hair_colour="green"), scene.attire, scene.background)
    changed = (render(other, sample.pose).picture != sample.rendered.picture).any(axis=2)
    assert changed.any() or scene.character.hair_colour == "green"
    assert not changed[~sample.rendered.mask("head")].mean() > 0.02


def test_people_and_places_have_colours_of_their_own():
    people = [c for t in (palette.CLOTH, palette.HAIR, palette.SKIN) for c in t.values()]
    for key, colours in PALETTES.items():
        if key[0] != "plain":
            nearest = min(palette.distance(a, b) for a in colours for b in people)
            assert nearest > 0.055, f"{key} is as close as {nearest:.3f} to a person's colour"
    assert set(specs.BACKGROUND_TONES) | {"plain"} == set(KINDS)


def test_unknown_names_are_refused():
    with pytest.raises(KeyError):
        plate(Background("moon", "grey"))
