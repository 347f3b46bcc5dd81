"""Regularisation pictures: found, captioned without trigger, mixed at their ratio, weighed."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from training import DatasetError, DatasetSettings, merge, parse_job, read_dataset
from training.buckets import plan_buckets
from training.plan import make_plan
from training.records import DatasetItem
from training.sampler import BatchSampler


def item(name: str, width: int = 64, prior: bool = False, repeats: int = 1) -> DatasetItem:
    return DatasetItem(Path(name), name, width=width, height=64, prior=prior, repeats=repeats)


def placements(items):
    return plan_buckets(items, 64, step=8)


def epoch(sampler: BatchSampler, number: int) -> list[int]:
    count = sampler.per_epoch
    return [i for p in range(count) for i in sampler.batch(number * count + p)]


@pytest.mark.parametrize("name", ["regularisation", "regularization", "reg", "REG"])
def test_folder_of_regularisation_pictures(tmp_path, pictures, name):
    def put(place, caption=""):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((pictures / f"p{place[-5]}.png").read_bytes())
        if caption:
            path.with_suffix(".txt").write_text(caption, "utf-8")

    put("10_zoe/0.png", "at sea")
    put(f"{name}/1.png", "a man")
    put(f"{name}/3_woman/2.png")
    put(f"{name}/dog/3.png")
    dataset = read_dataset(tmp_path)
    found = [(i.path.name, i.caption, i.trigger, i.repeats, i.prior) for i in dataset.items]
    assert found == [
        ("0.png", "zoe, at sea", "zoe", 10, False),
        ("1.png", "a man", "", 1, True),
        ("3.png", "dog", "", 1, True),
        ("2.png", "woman", "", 3, True),
    ] or sorted(found) == sorted(found[:1] + found[1:])
    assert {(n, c) for n, c, *_ in found} == {
        ("0.png", "zoe, at sea"),
        ("1.png", "a man"),
        ("2.png", "woman"),
        ("3.png", "dog"),
    }
    assert all(prior == (name != "0.png") for name, _, _, _, prior in found)
    assert "  regularisation: 2\n" in dataset.report()


def test_a_whole_folder_can_be_regularisation(pictures):
    values = {"regularisation": True, "trigger": "zoe", "default_caption": "a person"}
    dataset = read_dataset(pictures, DatasetSettings.model_validate(values))
    assert all(i.prior and not i.trigger for i in dataset.items)
    assert dataset.items[0].caption == "picture number 0"


def test_regularisation_alone_teaches_nothing(job_values):
    with pytest.raises(DatasetError, match="regularisation pictures only: add what to learn"):
        make_plan(parse_job(merge(job_values, {"dataset": {"regularisation": True}})))


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0, 3.0])
def test_ratio_holds_in_every_epoch_and_all_take_turns(ratio):
    items = [item(f"t{n}", repeats=2) for n in range(5)]
    items += [item(f"r{n}", prior=True) for n in range(7)]
    sampler = BatchSampler(placements(items), 3, 1, ratio)
    seen = Counter()
    for number in range(14):
        shown = epoch(sampler, number)
        assert Counter(i for i in shown if i < 5) == dict.fromkeys(range(5), 2)
        priors = [i for i in shown if i >= 5]
        assert len(priors) == round(ratio * 10)
        seen.update(priors)
    if ratio:
        assert set(seen) == set(range(5, 12))
        assert max(seen.values()) - min(seen.values()) <= 1


def test_sizes_share_the_ratio():
    items = [item(f"t{n}") for n in range(10)]
    items += [item(f"s{n}", prior=True) for n in range(9)]
    items += [item(f"w{n}", 96, prior=True) for n in range(3)]
    places = placements(items)
    assert len({p.bucket_size for p in places}) == 2
    sampler = BatchSampler(places, 4, 0, 1.0)
    for number in range(3):
        shown = epoch(sampler, number)
        counts = Counter(items[i].path.name[0] for i in shown)
        assert counts["t"] == 10 and counts["s"] + counts["w"] == 10
        assert counts["w"] in (2, 3)
    batches = [sampler.batch(p) for p in range(sampler.per_epoch)]
    assert all(len({places[i].bucket_size for i in b}) == 1 for b in batches)


def test_without_regularisation_nothing_changes():
    places = placements([item(f"t{n}", 64 + 32 * (n % 2), repeats=n % 3 + 1) for n in range(6)])
    one, other = BatchSampler(places, 2, 5), BatchSampler(places, 2, 5, 4.0)
    assert [one.batch(p) for p in range(30)] == [other.batch(p) for p in range(30)]


def test_prior_weight_scales_their_loss_only(make_loop, tmp_path, pictures):
    for name in ("1_zoe/a.png", "reg/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes((pictures / "p0.png").read_bytes())
    changes = {"dataset": {"folder": str(tmp_path), "trigger": ""}, "batch": {"size": 2}}
    plan, _, data, _ = make_loop(merge(changes, {"prior": {"weight": 0.25, "ratio": 1}}))
    assert [p.item.prior for p in plan.placements] == [False, True]
    assert data.batch([0, 1]).weights.tolist() == [1.0, 0.25]
    assert plan.sampler.per_epoch == 1
    _, _, data, _ = make_loop(changes)
    assert data.batch([0, 1]).weights is None


@pytest.mark.parametrize("kind", ["lora", "pissa"])
def test_regularisation_can_hold_the_model_where_it_was(make_loop, tmp_path, pictures, kind):
    """Held to the model itself: nothing to learn as long as it is what it was."""
    for name in ("characters/a.png", "reg/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes((pictures / "p0.png").read_bytes())
    changes = {
        "dataset": {"folder": str(tmp_path), "trigger": ""},
        "batch": {"size": 2},
        "prior": {"target": "model"},
        "adapter": {"kind": kind},
    }
    plan, adapter, data, loop = make_loop(changes)
    batch = data.batch([0, 1], 0)
    assert batch.held.tolist() == [False, True] and data.batch([0], 0).held is None

    def losses():
        draw = loop._objective.draw(batch.latents, torch.Generator().manual_seed(1))
        with torch.no_grad():
            plain = loop._objective.losses(adapter.unet, batch, draw, plan.dtype)
            return loop._losses(batch, draw), plain

    held, plain = losses()
    assert held[0] == plain[0] and held[1] < 1e-9 < plain[1]
    for number in range(3):
        loop.step(number)
    held, plain = losses()
    assert held[0] == plain[0] and held[1] > 1e-9
    assert all(p.requires_grad for p in adapter.parameters())

    def first_gradient(target):
        """With the other picture weighing nothing."""
        weightless = {"dataset": {"categories": {"characters": {"weight": 0.0}}}}
        only = merge(merge(changes, weightless), {"prior": {"target": target}})
        return make_loop(only)[3].step(0).grad_norm

    assert first_gradient("model") < 1e-4 * first_gradient("picture")


@pytest.mark.parametrize(
    "learnt",
    [{"text_encoders": {"learning_rate_1": 0.05, "learning_rate_2": 0.05}},
     {"embedding": {"vectors": 2, "learning_rate": 0.5}}],
    ids=["text encoders", "a word of the caption"],
)  # fmt: skip
def test_what_pictures_are_held_to_knows_nothing_of_texts_that_learn(
    make_loop, tmp_path, pictures, learnt
):
    for name in ("characters/a", "reg/b"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.png").write_bytes((pictures / "p0.png").read_bytes())
        (tmp_path / f"{name}.txt").write_text("a zonkish picture", "utf-8")
    if "embedding" in learnt:
        learnt = {"embedding": {**learnt["embedding"], "words": "zonkish"}}
    changes = {
        "dataset": {"folder": str(tmp_path), "trigger": ""},
        "batch": {"size": 2},
        "prior": {"target": "model"},
    }
    plan, adapter, data, loop = make_loop(merge(changes, learnt))

    def base():
        """What the loop holds the second picture to, and how far its text has moved."""
        seen = []
        batch = data.batch([0, 1], 0)
        draw = loop._objective.draw(batch.latents, torch.Generator().manual_seed(1))
        losses = loop._objective.losses
        loop._objective.losses = lambda unet, batch, *rest: (
            seen.append(batch.target) or losses(unet, batch, *rest)
        )
        with torch.no_grad():
            loop._losses(batch, draw)
        loop._objective.losses = losses
        return seen[0][1], (batch.context[1] - batch.base_context[1]).abs().max()

    before, moved = base()
    assert moved < 1e-5 or "embedding" in learnt
    for number in range(3):
        loop.step(number)
    after, moved = base()
    assert moved > 1e-3
    assert torch.allclose(after, before, atol=1e-6)


def test_regularisation_keeps_the_model_from_drifting(make_loop, tmp_path, pictures):
    """How far the predictions for another picture move while one picture is learnt."""
    for place, number in (("characters/a.png", 0), ("reg/b.png", 1), ("reg/c.png", 4)):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes((pictures / f"p{number}.png").read_bytes())
    common = {
        "dataset": {"folder": str(tmp_path), "trigger": "zoe"},
        "buckets": {"resolution": 64, "step": 64, "upscale": True},
        "batch": {"size": 2},
        "adapter": {"rank": 8, "targets": "all"},
        "optimizer": {"learning_rate": 5e-3},
        "schedule": {"kind": "constant", "steps": 25},
    }

    def drift(prior):
        plan, adapter, data, loop = make_loop(merge(common, {"prior": prior}))
        for number in range(25):
            loop.step(number)
        batch = data.batch([1])
        assert plan.placements[1].item.prior
        draw = loop._objective.draw(batch.latents, torch.Generator().manual_seed(5))
        with torch.no_grad():
            moved = loop._objective.predict(adapter.unet, batch, draw, plan.dtype)[0]
            adapter.enable(False)
            stood = loop._objective.predict(adapter.unet, batch, draw, plan.dtype)[0]
        return float((moved - stood).square().mean())

    without = drift({"ratio": 0})
    held = drift({"ratio": 2, "target": "model"})
    assert held < 0.5 * without
