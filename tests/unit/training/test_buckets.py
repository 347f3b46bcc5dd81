"""Buckets cover, never stretch, never enlarge; crops and size conditioning mean what SDXL means."""

import hashlib
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from training.buckets import (
    STEPS,
    bucket_sizes,
    count_buckets,
    default_step,
    losses,
    place_image,
    place_mask,
    plan_buckets,
)
from training.errors import DatasetError
from training.images import load_image
from training.records import DatasetItem

# SDXL paper (arXiv 2307.01952), appendix I: the sizes SDXL was trained at, portrait half.
PAPER = """512x2048 512x1984 512x1920 512x1856 576x1792 576x1728 576x1664 640x1600 640x1536 704x1472
704x1408 704x1344 768x1344 768x1280 832x1216 832x1152 896x1152 896x1088 960x1088 960x1024
1024x1024""".split()


def item(width: int, height: int, path="x.png", **more) -> DatasetItem:
    return DatasetItem(path, "", width=width, height=height, **more)


def plan_one(width: int, height: int, resolution: int = 1024, **options):
    return plan_buckets([item(width, height)], resolution, **options)[0]


def test_sizes_are_those_of_sdxl():
    paper = {tuple(map(int, size.split("x"))) for size in PAPER}
    ours = set(bucket_sizes(1024))
    assert ours <= paper | {(h, w) for w, h in paper}
    # of the paper's sizes those are missing that a larger one of the same side replaces
    for width, height in paper - ours:
        assert (width, height + 64) in paper or (width + 64, height) in paper


@pytest.mark.parametrize("resolution", [128, 256, 512, 768, 1000, 1024])
@pytest.mark.parametrize("step", STEPS)
def test_sizes_obey_area_and_step(resolution, step):
    sizes = bucket_sizes(resolution, step)
    assert len(set(sizes)) == len(sizes)
    for width, height in sizes:
        assert width % step == height % step == 0
        assert width * height <= resolution**2 and (height, width) in sizes
        grown = [(width + step, height), (width, height + step)]
        assert any(w * h > resolution**2 or max(w, h) > 2 * resolution for w, h in grown)


def test_default_step():
    steps = {r: default_step(r) for r in (64, 128, 256, 512, 1024)}
    assert steps == {64: 8, 128: 16, 256: 32, 512: 64, 1024: 64}


@pytest.mark.parametrize("upscale", [False, True])
def test_any_picture_is_covered_without_stretching(upscale):
    rng = random.Random(7)
    for _ in range(3000):
        size = tuple(int(2 ** rng.uniform(3, 13)) for _ in range(2))
        resolution = rng.choice([128, 256, 512, 768, 1024])
        step = rng.choice([None, *STEPS])
        p = plan_one(*size, resolution, step=step, upscale=upscale)
        used = step or default_step(resolution)
        (bw, bh), (rw, rh) = p.bucket_size, p.resized
        assert bw % used == bh % used == 0 and 0 < bw * bh <= resolution**2
        assert rw >= bw and rh >= bh and (rw == bw or rh == bh)  # covers, touching one pair
        scale = max(bw / size[0], bh / size[1])
        assert abs(rw - size[0] * scale) <= 0.5 + 1e-6 and abs(rh - size[1] * scale) <= 0.5 + 1e-6
        if not upscale and min(size) >= used:
            assert scale <= 1
        left, top = p.crop_left_top
        assert (left, top) == ((rw - bw) // 2, (rh - bh) // 2)
        assert p.original_size == size


def test_nearest_aspect_is_by_ratio():
    for width, height in [(3000, 2000), (2000, 3000), (4000, 1600), (2048, 2048), (2960, 2000)]:
        chosen = plan_one(width, height).bucket_size
        ratio = width / height

        def distance(size, ratio=ratio):
            return abs(math.log(size[0] / size[1] / ratio))

        assert distance(chosen) == min(map(distance, bucket_sizes(1024)))
        mirrored = plan_one(height, width).bucket_size
        assert mirrored == chosen[::-1]


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((500, 700), (448, 640)),  # sd-scripts --bucket_no_upscale gives these as well
        ((1000, 1000), (960, 960)),
        ((512, 512), (512, 512)),
        ((600, 300), (512, 256)),  # sd-scripts: (576, 256), a ninth cut off
        ((1023, 1025), (960, 960)),
    ],
)
def test_small_pictures_get_smaller_buckets(size, bucket):
    assert plan_one(*size).bucket_size == bucket
    large = plan_one(*size, upscale=True)
    assert large.lost < 0.05 and math.prod(large.bucket_size) > 0.8 * 1024**2


LONG = [(3541, 454), (454, 3541), (40, 2000), (5000, 300), (1200, 300), (8000, 900), (300, 299)]


@pytest.mark.parametrize("size", LONG)
@pytest.mark.parametrize("upscale", [False, True])
def test_long_pictures_keep_their_content(size, upscale):
    """The usual buckets end at 1:4, and would cut off 41 % of the first one."""
    placed = plan_one(*size, upscale=upscale)
    assert placed.lost < 0.12
    assert math.prod(placed.bucket_size) <= 1024**2
    bounded = plan_one(*size, upscale=upscale, max_size=1536)  # what is asked for holds
    assert max(bounded.bucket_size) <= 1536


def test_little_is_lost_on_the_mean():
    rng = random.Random(1)
    sizes = []
    for _ in range(500):
        shape, area = math.exp(rng.uniform(-1.2, 1.2)), 2 ** rng.uniform(17, 23)
        sizes.append((round(math.sqrt(area * shape)), round(math.sqrt(area / shape))))
    placed = [plan_one(*size) for size in sizes]
    assert sum(p.lost for p in placed) / len(placed) < 0.03  # sd-scripts' free buckets: 0.035
    assert max(p.lost for p in placed) < 0.15
    assert sum(p.bucket_size in bucket_sizes(1024) for p in placed) > 100


def test_what_a_picture_loses_is_said():
    items = [item(3541, 454, "long.png"), item(1024, 1024)]
    (line,) = losses(plan_buckets(items, 1024, min_size=448, max_size=2048, upscale=True))
    assert line == "1 picture is cut by more than a tenth: long.png 41 %"
    assert losses(plan_buckets([item(3541, 454)], 1024)) == []
    (line,) = losses(plan_buckets([item(40, 2000, "thin.png")], 1024))
    assert line == "1 picture is enlarged: thin.png 1.6 times"


def test_tiny_picture_is_enlarged_to_one_step_only():
    assert plan_one(40, 300).bucket_size == (64, 448)
    assert plan_one(1, 1, 128, step=8).bucket_size == (8, 8)


def test_plan_depends_on_each_picture_alone():
    items = [item(w, h) for w, h in [(800, 600), (1200, 1600), (512, 512), (3000, 700)]]
    plan = plan_buckets(items, 768)
    assert [p.item for p in plan] == items
    assert plan_buckets(items[::-1], 768)[::-1] == plan
    assert [plan_buckets([i], 768)[0] for i in items] == plan


def test_counts_have_repeats():
    items = [item(1024, 1024, repeats=3), item(1024, 1024), item(1216, 832)]
    assert count_buckets(plan_buckets(items, 1024)) == {(1024, 1024): 4, (1216, 832): 1}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"resolution": 1024, "step": 24}, "step 24"),
        ({"resolution": 32, "step": 64}, "Resolution 32"),
        ({"resolution": 1024, "min_size": 1088}, "Bucket sides"),
        ({"resolution": 1024, "max_size": 960}, "Bucket sides"),
        ({"resolution": 1024, "crop": "middle"}, "Unknown crop 'middle'"),
    ],
)
def test_bad_settings_are_named(options, word):
    with pytest.raises(DatasetError, match=word):
        plan_buckets([item(900, 900)], **options)


@pytest.fixture
def marked(tmp_path):
    """A black picture with one white square, and where that is: (item, left, top, side)."""
    pixels = np.zeros((600, 1500, 3), np.uint8)
    pixels[420:440, 900:920] = 255
    path = tmp_path / "marked.png"
    Image.fromarray(pixels).save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return item(1500, 600, path, digest=digest), 900, 420, 20


@pytest.mark.parametrize("crop", ["center", "left", "right", "top", "bottom", (3, 0)])
@pytest.mark.parametrize("resolution", [256, 512])
def test_crop_offsets_are_in_resized_pixels(marked, resolution, crop):
    picture, left, top, side = marked
    placement = plan_buckets([picture], resolution)[0].with_crop(crop)
    sample = place_image(placement)
    assert sample.dtype == torch.float32
    assert sample.shape == (3, *placement.bucket_size[::-1])
    assert sample.min() >= -1 and sample.max() <= 1
    lit = (sample[0] > 0).nonzero().float().mean(0) + 0.5  # centre of the square in the sample
    scale_x = placement.resized[0] / 1500
    scale_y = placement.resized[1] / 600
    crop_left, crop_top = placement.crop_left_top
    assert lit[1].item() == pytest.approx((left + side / 2) * scale_x - crop_left, abs=0.6)
    assert lit[0].item() == pytest.approx((top + side / 2) * scale_y - crop_top, abs=0.6)


def test_unscaled_sample_is_the_exact_cut(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (256, 300, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(values).save(path)
    placement = plan_buckets([item(300, 256, path)], 512, step=8, crop="right")[0]
    assert placement.resized == (300, 256)
    cut = torch.from_numpy(values[:, 300 - placement.bucket_size[0] :]).permute(2, 0, 1)
    assert torch.equal(place_image(placement), cut.float() / 127.5 - 1)


def test_time_ids_are_those_of_diffusers_training(marked):
    """train_text_to_image_sdxl.py: (h, w) of the file + (top, left) after resizing + target."""
    placement = plan_buckets([marked[0]], 512, crop="bottom")[0].with_crop("right")
    resized = Image.fromarray(load_image(marked[0].path)).resize(placement.resized)
    width, height = placement.bucket_size
    y1, x1 = resized.height - height, resized.width - width  # its crop() arguments for that corner
    assert (y1, x1) == placement.crop_left_top[::-1] and x1 > 0
    assert placement.time_ids == (600, 1500, y1, x1, height, width)


def test_crop_must_stay_inside(marked):
    placement = plan_buckets([marked[0]], 512)[0]
    for crop in [(-1, 0), (10_000, 0), (0, 1)]:
        with pytest.raises(DatasetError, match="leaves the picture"):
            place_image(placement, crop)


def test_changed_file_is_not_trained_on(marked):
    placement = plan_buckets([marked[0]], 512)[0]
    Image.new("RGB", (1500, 600), "red").save(marked[0].path)
    with pytest.raises(DatasetError, match=r"marked\.png changed"):
        place_image(placement)


def test_mask_follows_its_picture(marked, tmp_path):
    picture = marked[0]
    placement = plan_buckets([picture], 256)[0]
    assert torch.equal(place_mask(placement), torch.ones(placement.bucket_size[::-1]))
    mask = np.asarray(Image.open(picture.path).convert("L"))
    Image.fromarray(mask).save(tmp_path / "mask.png")
    masked = item(1500, 600, picture.path, mask_path=tmp_path / "mask.png")
    placement = plan_buckets([masked], 256)[0]
    expected = (place_image(placement)[0] + 1) / 2
    assert torch.allclose(place_mask(placement), expected, atol=1e-2)
