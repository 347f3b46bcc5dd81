"""The measuring instruments, tested on truth that was blurred and made noisy."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from demo.world import Cloth, draw_sample, plate, render
from demo.world import labels as L
from demo.world.readers import (
    compare,
    iou,
    read_attire,
    read_background,
    read_cloth,
    read_person,
    same_cloth,
)

COUNT = 80


def _spoiled(picture: np.ndarray, seed: int) -> np.ndarray:
    """Blur of 0.7 px and noise of 8 of 255: about what a small autoencoder does."""
    noise = np.random.default_rng(seed).normal(0, 8, picture.shape)
    soft = ndimage.gaussian_filter(picture.astype(np.float32), (0.7, 0.7, 0))
    return np.clip(soft + noise, 0, 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def verdicts():
    out = []
    for seed in range(COUNT):
        sample = draw_sample(seed, 128, "test")
        out.append(compare(_spoiled(sample.rendered.picture, seed), sample.scene, sample.pose))
    return out


def test_attributes_are_read_right(verdicts):
    right, total = Counter(), Counter()
    for verdict in verdicts:
        for name, ok in verdict.right.items():
            right[name] += ok
            total[name] += 1
    assert set(total) == {"upper_cloth", "lower_cloth", "skin", "hair_colour", "hair_style", "mark",
                          "upper_kind", "lower_kind", "shoes", "place", "tone"}  # fmt: skip
    for name in total:
        assert right[name] / total[name] >= 0.98, (name, right[name], total[name])
    assert sum(right.values()) / sum(total.values()) >= 0.99


def _bent(picture: np.ndarray, seed: int) -> np.ndarray:
    """Every place moved by up to 2 px or so, smoothly, then blurred: drawn by an unsteady hand."""
    random = np.random.default_rng(seed)
    wave = ndimage.gaussian_filter(random.normal(size=(2, *picture.shape[:2])), (0, 9, 9))
    moved = np.indices(picture.shape[:2]) + 1.2 * wave / wave.std()
    channels = [ndimage.map_coordinates(c, moved, order=1) for c in picture.transpose(2, 0, 1)]
    return _spoiled(np.stack(channels, axis=2), seed)


def test_attributes_of_bent_pictures_are_read_right():
    right, total = Counter(), Counter()
    for seed in range(40):
        sample = draw_sample(seed, 128, "test")
        verdict = compare(_bent(sample.rendered.picture, seed), sample.scene, sample.pose)
        pattern = f"read as {verdict.read['upper_pattern']}"
        for name, ok in {**verdict.right, pattern: verdict.right.get("upper_cloth", True)}.items():
            right[name] += ok
            total[name] += 1
    rates = {name: right[name] / total[name] for name in total}
    assert min(rates.values()) >= 0.8, rates
    assert rates["read as plain"] >= 0.9 and rates["upper_cloth"] >= 0.9, rates


def test_the_person_is_found(verdicts):
    overlaps = np.array([verdict.person_iou for verdict in verdicts])
    assert overlaps.mean() > 0.92 and overlaps.min() > 0.75


def test_the_instrument_overlap_is_near_one_on_clean_pictures_and_low_for_other_poses():
    clean, wrong = [], []
    for seed in range(25):
        sample, other = draw_sample(seed, 128, "test"), draw_sample(seed + 1000, 128, "test")
        found = read_person(sample.rendered.picture, sample.scene)
        clean.append(iou(found, sample.rendered.mask("person")))
        wrong.append(iou(found, other.rendered.mask("person")))
    assert np.mean(clean) > 0.95
    assert np.mean(wrong) < 0.65


def test_no_person_is_found_on_an_empty_plate():
    for seed in range(20):
        scene = draw_sample(seed, 128, "test").scene
        found = read_person(plate(scene.background, 128).picture, scene)
        assert found.mean() < 0.02


def test_a_changed_garment_reads_differently():
    sample = draw_sample(2, 128, "test")
    truth = sample.scene.attire.upper
    mask = sample.rendered.part_mask(*L.UPPER_GARMENT)
    for colour, pattern, second in (
        ("red", "plain", ""),
        ("blue", "stripes", "white"),
        ("yellow", "dots", "black"),
        ("white", "checks", "green"),
    ):
        cloth = Cloth(truth.kind, colour, pattern, second)
        scene = replace(sample.scene, attire=replace(sample.scene.attire, upper=cloth))
        picture = _spoiled(render(scene, sample.pose, 128).picture, 0)
        assert same_cloth(read_cloth(picture, mask, sample.pose, truth.kind), cloth)


def test_a_strip_of_cloth_one_pixel_high_is_read():
    sample = draw_sample(2, 128, "test")
    mask = np.zeros((128, 128), bool)
    mask[60, 30:90] = True
    assert read_cloth(sample.rendered.picture, mask, sample.pose, "shirt") is not None


def test_readers_work_at_other_sizes():
    for seed in range(6):
        sample = draw_sample(seed, 256, "test")
        picture, scene = sample.rendered.picture, sample.scene
        seen = read_background(picture, sample.rendered.mask("background"))
        assert (seen.kind, seen.tone) == (scene.background.kind, scene.background.tone)
        attire = read_attire(picture, sample.pose, scene.character, scene.background)
        assert attire.upper.kind == scene.attire.upper.kind
        assert iou(read_person(picture, scene), sample.rendered.mask("person")) > 0.9


def test_same_cloth_ignores_the_order_of_stripes():
    a, b = Cloth("shirt", "red", "stripes", "white"), Cloth("shirt", "white", "stripes", "red")
    assert same_cloth(a, b)
    assert not same_cloth(replace(a, pattern="dots"), replace(b, pattern="dots"))
    assert not same_cloth(a, None)
