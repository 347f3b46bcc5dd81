"""The loop: order of batches, skipped steps, accumulation, going on, previews, the whole run."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from training import TrainingError, load_job, parse_job
from training.buckets import Placement
from training.plot import plot_losses, running_mean
from training.records import DatasetItem
from training.sampler import BatchSampler
from training.schedules import rate_factor


def placements(sizes: list[tuple[int, int]], repeats: list[int]) -> list[Placement]:
    out = []
    for i, (size, times) in enumerate(zip(sizes, repeats, strict=True)):
        out.append(Placement(DatasetItem(f"{i}.png", "", repeats=times), size, size, (0, 0), size))
    return out


def test_every_epoch_shows_every_picture_as_often_as_asked():
    places = placements([(64, 64)] * 5 + [(96, 32)] * 2, [1, 2, 1, 1, 3, 1, 1])
    sampler = BatchSampler(places, 3, seed=1)
    assert sampler.per_epoch == 3 + 1
    orders = []
    for epoch in range(3):
        batches = [sampler.batch(epoch * 4 + i) for i in range(4)]
        shown = sorted(i for batch in batches for i in batch)
        assert shown == [0, 1, 1, 2, 3, 4, 4, 4, 5, 6]
        for batch in batches:
            assert len({places[i].bucket_size for i in batch}) == 1
        orders.append(batches)
    assert orders[0] != orders[1] != orders[2]
    again = BatchSampler(places, 3, seed=1)
    assert [again.batch(i) for i in (11, 0, 7)] == [orders[2][3], orders[0][0], orders[1][3]]
    other = BatchSampler(places, 3, seed=2)
    assert [other.batch(i) for i in range(12)] != [b for order in orders for b in order]


def schedule(**values):
    job = {"base": {"checkpoint": "-"}, "dataset": {"folder": "-"}, "schedule": values}
    return parse_job(job).schedule


def test_learning_rate_curves():
    settings = schedule(steps=100, kind="cosine", warmup=0.1, floor=0.2)
    factors = [rate_factor(i, settings) for i in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert factors[10] == 1.0 and factors[55] == pytest.approx(0.6)
    assert 0.2 < factors[-1] < 0.21
    assert factors[10:] == sorted(factors[10:], reverse=True)
    settings = schedule(steps=5, kind="constant")
    assert {rate_factor(i, settings) for i in range(5)} == {1.0}
    assert 0 < rate_factor(0, schedule(steps=1, warmup=1.0)) < 1


def test_a_finished_run(train):
    outcome, events = train({"saving": {"every_steps": 2}, "samples": {"at_end": True}})
    kinds = [e["event"] for e in events]
    assert kinds[0] == "plan" and kinds[-1] == "done"
    assert events[0]["pictures"] == 5 and events[0]["steps"] == 4
    steps = [e for e in events if e["event"] == "step"]
    assert [e["step"] for e in steps] == [1, 2, 3, 4]
    assert all(e["loss"] > 0 and e["grad_norm"] > 0 and e["memory_mb"] > 0 for e in steps)
    assert [e["step"] for e in events if e["event"] == "checkpoint"] == [2, 4]
    done = events[-1]
    assert json.loads(Path(done["losses"]).read_text("utf-8"))["loss"] == [e["loss"] for e in steps]
    assert Image.open(done["plot"]).size == (960, 480)
    (sample,) = done["samples"]
    with Image.open(sample[0]) as with_lora, Image.open(sample[1]) as base:
        assert with_lora.size == base.size == (64, 64)
        assert with_lora.tobytes() != base.tobytes()
    run = outcome.lora.parent
    kept = {p.name for p in run.iterdir()}
    assert kept == {
        *("events.jsonl", "job.yaml", "lock", "lora.safetensors", "loss.png", "losses.json"),
        *("samples", "states"),
    }
    assert [json.loads(x) for x in (run / "events.jsonl").read_text("utf-8").splitlines()] == events
    assert load_job(run / "job.yaml").adapter.rank == 4
    phases = {e["name"] for e in events if e["event"] == "phase"}
    assert phases == {"latents", "text", "model", "train", "sample", "export"}


def test_the_same_job_is_not_trained_twice(train):
    first, _ = train()
    before = first.lora.read_bytes()
    first.lora.unlink()
    again, events = train({"name": "other name"})
    assert again.lora == first.lora
    assert events[0]["resumed_from"] == 4 and events[-1]["reused"]
    assert not [e for e in events if e["event"] in ("step", "checkpoint")]
    assert again.lora.read_bytes() != before  # it says another name of itself
    train({"name": "tiny"})
    assert first.lora.read_bytes() == before


def test_training_lowers_the_loss_it_is_given(make_loop):
    changes = {
        "schedule": {"steps": 80, "kind": "constant"},
        "optimizer": {"learning_rate": 0.002},
        "adapter": {"rank": 8, "alpha": 8.0},
    }
    plan, adapter, _, loop = make_loop(changes)

    @torch.no_grad()
    def loss() -> float:
        return sum(float(loop._loss(plan.sampler.batch(i), i)[1]) for i in range(40)) / 40

    before = loss()
    loop.run(0, lambda step: True)
    after = loss()
    adapter.enable(False)
    assert loss() == pytest.approx(before, rel=1e-6)  # the base model is untouched
    assert after < 0.97 * before


def states_equal(one, two):
    return all(torch.equal(one[k], two[k]) for k in one) and one.keys() == two.keys()


def test_stopping_anywhere_and_going_on_changes_nothing(train, tmp_path):
    folders = lambda n: {"folders": {"runs": str(tmp_path / n)}}  # noqa: E731
    whole, _ = train(folders("whole"))
    expected = load_file(whole.lora)
    stops = {"in the cache": 3, "before a step": 12, "in the loop": 17, "after": 19}
    for name, at in stops.items():
        asked = []

        def should_stop(asked=asked, at=at):
            asked.append(1)
            return len(asked) >= at

        outcome, events = train(folders(name), should_stop)
        if outcome.lora is None:
            assert events[-1]["event"] == "stopped" and events[-1]["saved"], name
            outcome, events = train(folders(name))
        assert states_equal(load_file(outcome.lora), expected), name


def test_sampling_changes_nothing(train, tmp_path):
    plain, _ = train({"folders": {"runs": str(tmp_path / "a")}})
    sampled, events = train(
        {
            "folders": {"runs": str(tmp_path / "b")},
            "samples": {"every_steps": 1, "at_end": True, "prompts": ["one", "two"]},
        }
    )
    samples = [e for e in events if e["event"] == "sample"]
    assert [(e["step"], e["prompt"]) for e in samples] == [
        (step, prompt) for step in (1, 2, 3, 4) for prompt in ("one", "two")
    ]
    assert len({e["path"] for e in samples}) == 8 and len({e["base"] for e in samples}) == 2
    assert states_equal(load_file(plain.lora), load_file(sampled.lora))


def test_a_stop_while_sampling_loses_nothing(train, tmp_path):
    whole, _ = train({"folders": {"runs": str(tmp_path / "whole")}})
    sampling = {"samples": {"every_steps": 2}}
    log = tmp_path / "runs"

    def should_stop():
        files = list(log.rglob("events.jsonl"))
        return bool(files) and '"name": "sample"' in files[0].read_text("utf-8")

    outcome, events = train(sampling, should_stop)
    assert outcome.lora is None
    assert events[-2]["event"] == "checkpoint" and events[-1]["step"] == 2
    outcome, events = train(sampling)
    assert [e["step"] for e in events if e["event"] == "step"] == [3, 4]
    assert states_equal(load_file(outcome.lora), load_file(whole.lora))


def test_accumulated_steps_equal_one_batch(make_loop):
    big = make_loop({"batch": {"size": 2}, "buckets": {"step": 64}})
    plan, adapter, data, loop = make_loop({"batch": {"accumulation": 2}, "buckets": {"step": 64}})
    first, second = plan.sampler.batch(0), plan.sampler.batch(1)
    separate = [loop._loss(first, 0)[1], loop._loss(second, 1)[1]]
    (sum(separate) / 2).backward()
    expected = [p.grad.clone() for p in loop.updater.parameters]
    norm = torch.nn.utils.get_total_norm(expected)
    adapter.unet.zero_grad()
    step = loop.step(0)
    assert step.loss == pytest.approx(float(sum(separate).detach() / 2), rel=1e-6)
    assert step.grad_norm == pytest.approx(float(norm), rel=1e-5)
    assert len(step.pictures) == 2 and big[0].sampler.per_epoch == 3


def test_checkpointing_and_dropout_are_reproducible(make_loop):
    results = []
    for mode in ("off", "on"):
        changes = {"memory": {"gradient_checkpointing": mode}, "adapter": {"dropout": 0.5}}
        _, adapter, _, loop = make_loop(changes)
        loop.run(0, lambda step: step.number < 3)
        results.append(torch.cat([p.detach().flatten() for p in adapter.parameters()]))
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-4)


def test_a_step_without_a_finite_gradient_is_skipped_and_counted(make_loop, train, monkeypatch):
    from training.loop import Loop

    honest = Loop._loss

    def broken(self, indices, position):
        factor = math.nan if position == 1 else 1.0
        return tuple(losses * factor for losses in honest(self, indices, position))

    monkeypatch.setattr(Loop, "_loss", broken)
    _, adapter, _, loop = make_loop()
    loop.step(0)
    before = [p.detach().clone() for p in adapter.parameters()]
    step = loop.step(1)
    assert step.skipped and math.isnan(step.loss)
    assert all(torch.equal(a, b) for a, b in zip(before, adapter.parameters(), strict=True))
    assert not loop.step(2).skipped
    _, events = train()
    (warning,) = [e for e in events if e["event"] == "warning"]
    assert "Step 2" in warning["message"] and ".png" in warning["message"]
    assert events[-1]["skipped_steps"] == 1
    assert json.loads(Path(events[-1]["losses"]).read_text("utf-8"))["loss"][1] is None


def test_a_run_that_has_broken_down_ends(make_loop, monkeypatch):
    from training.loop import SKIPS_IN_A_ROW, Loop

    honest = Loop._loss
    monkeypatch.setattr(Loop, "_loss", lambda *a: tuple(x * math.inf for x in honest(*a)))
    _, _, _, loop = make_loop({"schedule": {"steps": 100}})
    count = []
    with pytest.raises(TrainingError, match="learning_rate"):
        loop.run(0, lambda step: count.append(step) or True)
    assert len(count) == SKIPS_IN_A_ROW - 1


def test_running_mean_and_plot_take_anything(tmp_path):
    assert running_mean([2.0, 2.0, math.nan, 2.0]) == pytest.approx([2.0] * 4)
    assert math.isnan(running_mean([math.nan])[0])
    for i, losses in enumerate(([], [1.0], [0.0, 0.0], [math.nan], [1.0, math.inf, 3.0])):
        plot_losses(losses, tmp_path / f"{i}.png", "name")
        assert Image.open(tmp_path / f"{i}.png").size == (960, 480)
