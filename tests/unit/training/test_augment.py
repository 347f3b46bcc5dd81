"""Versions of a picture: geometry, colours, several resolutions, and that each is repeatable."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training import merge, parse_job
from training.augment import PictureVariants, recoloured
from training.buckets import Colour, place_image, plan_buckets
from training.cache import encode
from training.data_settings import AugmentSettings
from training.images import load_image
from training.plan import make_plan
from training.records import DatasetItem

DIGITS = 4


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> DatasetItem:
    """A picture of 300 x 200 whose red tells x and whose green tells y."""
    path = tmp_path_factory.mktemp("wide") / "wide.png"
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, 300).round()[None]
    pixels[..., 1] = np.linspace(0, 255, 200).round()[:, None]
    Image.fromarray(pixels).save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return DatasetItem(path, "x", width=300, height=200, digest=digest)


def versions(item, crop="center", seed=0, resolution=128, step=64, **settings):
    (place,) = plan_buckets([item], resolution, step)
    return PictureVariants(AugmentSettings(**settings), crop, seed).of(place)


def test_nothing_random_is_the_picture_itself(wide):
    (place,) = plan_buckets([wide], 128, 64)
    assert versions(wide) == (place,)
    assert versions(wide, variants=64) == (place,)


@pytest.mark.parametrize("crop", ["left", "center", "right"])
def test_flip_shows_the_same_part_mirrored(wide, crop):
    (place,) = plan_buckets([wide], 128, 64, crop=crop)
    plain, mirrored = PictureVariants(AugmentSettings(flip=True), crop, 0).of(place)
    assert plain == place and mirrored.flip and mirrored.bucket_size == place.bucket_size
    difference = place_image(mirrored).flip(-1) - place_image(plain)
    assert difference.abs().max() <= 1 / 127.5  # Pillow rounds a mirrored picture otherwise
    surplus = place.resized[0] - place.bucket_size[0]
    assert mirrored.crop_left_top[0] + place.crop_left_top[0] == surplus
    assert mirrored.time_ids[3] == mirrored.crop_left_top[0]


def test_flips_are_half_of_the_versions(wide):
    made = versions(wide, crop="random", flip=True, variants=8)
    assert sum(v.flip for v in made) == 4 and not made[0].flip


def test_random_crops_cover_the_picture_and_stay_inside(wide):
    made = versions(wide, crop="random", variants=64)
    surplus = [made[0].resized[i] - made[0].bucket_size[i] for i in (0, 1)]
    lefts = {v.crop_left_top[0] for v in made}
    edge = surplus[0] / 8  # dice are thrown by the file's bytes, which every zlib writes otherwise
    assert min(lefts) <= edge and max(lefts) >= surplus[0] - edge and len(lefts) > 20
    assert all(0 <= v.crop_left_top[i] <= surplus[i] for v in made for i in (0, 1))
    for version in made[:4]:  # what is seen is where the offset says
        left, top = version.crop_left_top
        seen = (place_image(version)[:, 64, 64] + 1) * 127.5
        assert seen[0] == pytest.approx((left + 64.5) * 255 / version.resized[0], abs=2)
        assert seen[1] == pytest.approx((top + 64.5) * 255 / version.resized[1], abs=2)


def test_zoom_cuts_in_by_at_most_its_share(wide):
    (plain,) = versions(wide)
    made = versions(wide, zoom=0.2, variants=64)
    scales = [v.resized[0] / plain.resized[0] for v in made]
    assert min(scales) < 1.02 and 1.18 < max(scales) <= 1.21
    assert all(v.bucket_size == plain.bucket_size and v.original_size == (300, 200) for v in made)
    for version in made[:3]:
        assert place_image(version).shape == place_image(plain).shape


def test_versions_follow_seed_and_content_alone(wide):
    settings = {"zoom": 0.1, "hue": 0.1, "brightness": 0.2, "crop": "random"}
    assert versions(wide, seed=1, **settings) == versions(wide, seed=1, **settings)
    assert versions(wide, seed=1, **settings) != versions(wide, seed=2, **settings)
    assert versions(wide, seed=1, **settings, variants=9)[:4] == versions(wide, seed=1, **settings)
    moved = DatasetItem(Path("elsewhere.png"), "y", width=300, height=200, digest=wide.digest)
    pairs = zip(versions(moved, **settings), versions(wide, **settings), strict=True)
    assert all(a.crop_left_top == b.crop_left_top and a.colour == b.colour for a, b in pairs)


def test_choice_is_even_and_a_function_of_position_and_slot():
    some = PictureVariants(AugmentSettings(), "random", 3)
    counts = Counter(some.choose(4, position, 0) for position in range(800))
    assert set(counts) == {0, 1, 2, 3} and min(counts.values()) > 150
    assert [some.choose(4, p, 1) for p in range(50)] == [some.choose(4, p, 1) for p in range(50)]


@pytest.mark.parametrize(
    ("colour", "name", "factor"),
    [
        (Colour(brightness=1.3), "brightness", 1.3),
        (Colour(brightness=0.6), "brightness", 0.6),
        (Colour(contrast=1.4), "contrast", 1.4),
        (Colour(contrast=0.5), "contrast", 0.5),
        (Colour(saturation=1.5), "saturation", 1.5),
        (Colour(saturation=0.0), "saturation", 0.0),
        (Colour(hue=0.2), "hue", 0.2),
        (Colour(hue=-0.5), "hue", -0.5),
    ],
)
def test_colours_are_those_of_torchvision(colour, name, factor):
    from torchvision.transforms.v2 import functional

    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    pixels[0, 0] = 77  # gray has no hue
    tensor = torch.from_numpy(pixels).permute(2, 0, 1) / 255.0
    theirs = getattr(functional, f"adjust_{name}")(tensor, factor)
    ours = torch.from_numpy(recoloured(pixels, colour)).permute(2, 0, 1) / 255.0
    assert (ours - theirs).abs().max() <= 1 / 255 + 1e-6


def test_no_change_of_colours_is_none(wide):
    pixels = load_image(wide.path)
    assert np.array_equal(recoloured(pixels, Colour()), pixels)


# ------------------------------------------------------------------------------- with the cache

EVERYTHING = {
    "buckets": {"crop": "random", "further": [96]},
    "augment": {"flip": True, "zoom": 0.1, "brightness": 0.2, "hue": 0.05, "variants": 3},
}


def test_every_version_is_cached_once_and_is_what_it_says(job_values, tiny_models):
    plan = make_plan(parse_job(merge(job_values, EVERYTHING)))
    data = encode(plan, [], lambda *_: None)
    folder = plan.cache_dir / "latents"
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert len(before) == 3 * len(plan.placements)
    pictures = PictureVariants(plan.job.augment, plan.job.buckets.crop, plan.job.seed)
    shown = Counter()
    for position in range(2 * plan.sampler.per_epoch):
        (index,) = plan.sampler.batch(position)
        made = pictures.of(plan.placements[index])
        which = pictures.choose(len(made), position, 0)
        batch = data.batch([index], position)
        with torch.no_grad():
            raw = tiny_models["vae"].encode(place_image(made[which])[None]).latents
        assert torch.equal(batch.latents, raw * 0.13025)
        assert batch.time_ids.tolist() == [list(made[which].time_ids)]
        shown[which] += 1
    assert len(shown) == 3
    encode(plan, [], lambda *_: None)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_several_resolutions_of_one_picture(job_values):
    plan = make_plan(parse_job(merge(job_values, {"buckets": {"further": [96, 48 + 16]}})))
    sizes = Counter((p.item.path.name, p.bucket_size) for p in plan.placements)
    assert set(sizes.values()) == {1}  # equal samples are trained once
    assert {size for name, size in sizes if name == "p0.png"} == {(64, 64)}  # no upscaling
    assert {size for name, size in sizes if name == "p3.png"} == {(64, 64), (80, 80)}
    assert plan.sampler.per_epoch == len(plan.placements)


def test_stopping_and_going_on_gives_the_same_file(train, tmp_path, pictures):
    """Everything random at once: each step is a function of its number."""
    folder = tmp_path / "set"
    for n, place in enumerate(("zoe.png", "zoe-mask.png", "reg/a.png", "reg/b.png")):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes((pictures / f"p{n}.png").read_bytes())
    changes = merge(
        EVERYTHING,
        {
            "captions": {"shuffle": True, "dropout": 0.3, "tag_dropout": 0.2},
            "dataset": {"folder": str(folder), "template": "{a|b} {trigger}, x, y, z"},
            "masks": {"unmasked_chance": 0.5},
            "prior": {"weight": 0.5},
            "batch": {"size": 2},
            "schedule": {"steps": 6},
        },
    )
    whole, events = train(merge(changes, {"folders": {"runs": str(tmp_path / "whole")}}))

    def after_three_steps():
        return sum(1 for _ in _steps(tmp_path / "parts")) >= 3

    parts = merge(changes, {"folders": {"runs": str(tmp_path / "parts")}})
    stopped, _ = train(parts, after_three_steps)
    assert stopped.lora is None and 3 <= stopped.step < 6
    finished, _ = train(parts)
    assert _tensors(finished.lora) == _tensors(whole.lora)


def _steps(runs: Path):
    for path in runs.glob("*/events.jsonl"):
        yield from (line for line in path.read_text("utf-8").splitlines() if '"step"' in line)


def _tensors(path: Path) -> dict[str, list]:
    from safetensors.torch import load_file

    return {name: tensor.tolist() for name, tensor in load_file(path).items()}


def test_everything_is_reachable_from_yaml_and_command_line(tmp_path, job_values):
    """A job file and words over it, to the plan."""
    import yaml

    from training.settings import load_job, override

    text = """
captions: {prefix: film still, shuffle: true, keep_tags: 1, dropout: 0.05, max_tokens: 150}
augment: {flip: true, zoom: 0.1, variants: 2}
buckets: {resolution: 64, step: 16, crop: random, further: [96]}
masks: {unmasked_weight: 0}
prior: {weight: 0.5, target: model}
cache: {limit_gb: 5}
"""
    values = merge(job_values, yaml.safe_load(text))
    more = {"caption_lines": "choose", "alpha_masks": True, "weight": 0.5, "masks": "black"}
    values = merge(values, {"dataset": more})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values), "utf-8")
    words = ["captions.suffix=grain, 35mm", "augment.hue=0.1", "buckets.further=[96, 80]"]
    words += ["captions.wildcards=false", "dataset.skip_duplicates=true"]
    job = load_job(tmp_path / "job.yaml", override(words))
    assert job.captions.prefix == "film still" and job.captions.suffix == "grain, 35mm"
    assert (job.augment.hue, job.buckets.further, job.captions.wildcards) == (0.1, [96, 80], False)
    plan = make_plan(job)
    assert all(p.item.weight == 0.5 for p in plan.placements)
    assert len({p.bucket_size for p in plan.placements if p.item.path.name == "p3.png"}) == 2
    data = encode(plan, [], lambda *_: None)
    (text,) = {*data.captions([0])}
    assert text == "film still, zoe, picture number 0, grain, 35mm"
    assert plan.digest != make_plan(parse_job(job_values)).digest
