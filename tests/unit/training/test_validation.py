"""Validation: fixed pictures, fixed noise; scores survive stops; the best weights are kept."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from training import DatasetError, load_job
from training.plan import make_plan

SHARE = {"validation": {"share": 0.4, "every_steps": 2, "timesteps": 3}}


def scores_of(events) -> list[tuple[int, float]]:
    return [(e["step"], e["loss"]) for e in events if e["event"] == "validation"]


def plan_of(job_values, **changes):
    from training import merge, parse_job

    return make_plan(parse_job(merge(job_values, changes)))


def test_pictures_are_held_out_by_content(job_values, pictures, tmp_path):
    plan = plan_of(job_values, **SHARE)
    held = {p.item.digest for p in plan.held_out}
    assert len(held) == 2 and len(plan.placements) == 3
    assert not held & {p.item.digest for p in plan.placements}
    assert plan.summary()["held_out"] == 2 and plan.summary()["pictures"] == 3
    elsewhere = tmp_path / "renamed"
    elsewhere.mkdir()
    for i, file in enumerate(sorted(pictures.glob("*.png"), reverse=True)):
        shutil.copy(file, elsewhere / f"other{i}.png")
    moved = plan_of(job_values, dataset={"folder": str(elsewhere)}, seed=99, **SHARE)
    assert {p.item.digest for p in moved.held_out} == held
    fewer = plan_of(job_values, validation={"share": 0.4, "pictures": 1})
    assert len(fewer.held_out) == 1 and len(fewer.placements) == 3
    assert plan_of(job_values).held_out == ()
    assert plan_of(job_values).digest != plan.digest
    assert plan_of(job_values, validation={"share": 0.4, "timesteps": 9}).digest == plan.digest


def test_a_twin_of_a_held_out_picture_is_held_out_too(job_values, pictures, tmp_path):
    folder = tmp_path / "twins"
    shutil.copytree(pictures, folder)
    for file in pictures.glob("*.png"):
        shutil.copy(file, folder / f"copy of {file.name}")
    plan = plan_of(job_values, dataset={"folder": str(folder)}, **SHARE)
    held = {p.item.digest for p in plan.held_out}
    assert len(plan.held_out) == len(held) == 2 and len(plan.placements) == 6
    assert not held & {p.item.digest for p in plan.placements}


def test_a_folder_of_its_own(job_values, pictures, tmp_path):
    folder = tmp_path / "held out"
    folder.mkdir()
    shutil.copy(pictures / "p0.png", folder / "again.png")
    with pytest.raises(DatasetError, match="'held out' holds no picture that is not trained on"):
        plan_of(job_values, validation={"folder": str(folder)})
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    (folder / "red.txt").write_text("red", "utf-8")
    plan = plan_of(job_values, validation={"folder": str(folder)})
    (place,) = plan.held_out
    assert place.item.caption == "zoe, red" and len(plan.placements) == 5
    assert plan.digest == plan_of(job_values).digest  # it changes no weight


def test_one_picture_is_too_few(job_values, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    with pytest.raises(DatasetError, match="too few pictures.*validation.share"):
        plan_of(job_values, dataset={"folder": str(folder)}, **SHARE)


def test_a_measurement_is_the_mean_of_plain_errors(make_loop, tiny_models):
    """Against the libraries: every picture alone, at the middles of three parts of the range."""
    from diffusers import DDPMScheduler

    from training.rng import generator
    from training.validation import Validation

    plan, adapter, data, loop = make_loop({**SHARE, "batch": {"size": 2}})
    validation = Validation(plan, data)
    score = validation.measure(adapter, loop.updater, 0)
    assert adapter.unet.training is False and list(score.by_timestep) == [166, 500, 833]
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    for time, loss in score.by_timestep.items():
        errors = []
        for i, place in enumerate(plan.held_out):
            batch = data.batch([len(plan.placements) + i])
            random = generator("validation", place.item.digest, time)
            noise = torch.randn(batch.latents.shape[1:], generator=random)[None]
            conditions = {"text_embeds": batch.pooled, "time_ids": batch.time_ids}
            with torch.no_grad():  # a fresh LoRA does nothing: the base model is the oracle
                predicted = tiny_models["unet"](
                    schedule.add_noise(batch.latents, noise, torch.tensor([time])),
                    time,
                    encoder_hidden_states=batch.context,
                    added_cond_kwargs=conditions,
                ).sample
            errors.append(float((predicted - noise).square().mean()))
        assert loss == pytest.approx(sum(errors) / 2, rel=1e-5)
    assert score.loss == pytest.approx(sum(score.by_timestep.values()) / 3)
    assert validation.measure(adapter, loop.updater, 0) == score


def test_measuring_changes_nothing_and_is_told(train, tmp_path):
    folders = lambda n: {"folders": {"runs": str(tmp_path / n)}}  # noqa: E731
    quiet = {"validation": {"share": 0.4, "every_steps": 0, "timesteps": 3}}
    plain, before = train({**quiet, **folders("plain"), "adapter": {"dropout": 0.3}})
    measured, events = train({**SHARE, **folders("measured"), "adapter": {"dropout": 0.3}})
    assert [s for s, _ in scores_of(before)] == [4]
    assert [s for s, _ in scores_of(events)] == [0, 2, 4]
    assert scores_of(before)[-1] == scores_of(events)[-1]
    one, two = load_file(plain.lora), load_file(measured.lora)
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    done = events[-1]
    assert done["validation"] == [list(s) for s in scores_of(events)] and done["used_step"] == 4
    assert json.loads(Path(done["losses"]).read_text("utf-8"))["validation"] == done["validation"]
    event = next(e for e in events if e["event"] == "validation")
    assert len(event["by_timestep"]) == 3 and event["pictures"] == 2
    with Image.open(done["plot"]) as plot:
        assert (0xD9, 0x73, 0x0D) in {colour for _, colour in plot.getcolors(1 << 20)}


@pytest.mark.parametrize(
    "learning",
    [
        {},
        {"optimizer": {"ema_decay": 0.9}},
        {"optimizer": {"kind": "schedule_free", "learning_rate": 0.01}},
        {"optimizer": {"kind": "prodigy", "weights": "bf16", "options": {"d0": 0.001}}},
    ],
    ids=["adamw", "mean", "schedule-free", "prodigy in bf16"],
)
def test_stopping_anywhere_keeps_scores_and_weights(learning, train, tmp_path):
    changes = {**SHARE, **learning, "objective": {"loss": "huber", "weighting": "min_snr"}}
    folders = lambda n: {"folders": {"runs": str(tmp_path / n)}}  # noqa: E731
    whole, told = train({**changes, **folders("whole")})
    expected, seen = load_file(whole.lora), set()
    in_and_between = (5, 9, 10)  # in the first measurement, in the second, before the third
    for at in in_and_between if not learning else (9, 10):
        asked = []

        def should_stop(asked=asked, at=at):
            asked.append(1)
            return len(asked) >= at

        outcome, events = train({**changes, **folders(f"at {at}")}, should_stop)
        parts = scores_of(events)
        if outcome.lora is None:
            seen.add(events[-1]["step"])
            outcome, events = train({**changes, **folders(f"at {at}")})
            parts += scores_of(events)
        found = load_file(outcome.lora)
        assert all(torch.equal(found[k], expected[k]) for k in expected), at
        assert parts == scores_of(told), at
        assert events[-1]["validation"] == told[-1]["validation"]
    assert seen >= {2, 3}


def test_the_best_weights_are_kept_apart_and_written_when_asked(train, tmp_path, monkeypatch):
    from training.validation import Validation

    honest = Validation.measure

    def worse_in_the_end(*arguments):
        score = honest(*arguments)
        return replace(score, loss=score.loss * (10 if score.step == 6 else 1))

    monkeypatch.setattr(Validation, "measure", worse_in_the_end)
    changes = {
        **SHARE,
        "optimizer": {"learning_rate": 0.01},
        "schedule": {"steps": 6, "kind": "constant"},
        "saving": {"every_steps": 1, "keep": 1, "precision": "fp32"},
        "samples": {"at_end": True},
    }
    last, events = train(changes)
    after = {s: x for s, x in scores_of(events) if s}
    step = min(after, key=after.get)
    assert step == 4
    flags = {e["step"]: e["best"] for e in events if e["event"] == "validation"}
    assert flags[step] and not flags[0] and not flags[6]
    files = {p.name for p in (last.lora.parent / "states").iterdir()}
    assert files == {"best.safetensors", "state-00000006.safetensors"}
    ended = {k: v.clone() for k, v in load_file(last.lora).items()}
    best, told = train({**changes, "validation": {**SHARE["validation"], "use_best": True}})
    assert told[-1]["reused"] and told[-1]["used_step"] == step
    assert f"step-{step:08d}" in told[-1]["samples"][0][0]
    kept = load_file(best.lora)
    assert any(not torch.equal(kept[k], ended[k]) for k in ended)
    # asked for from the start, the last weights are not lost
    elsewhere = {"folders": {"runs": str(tmp_path / "elsewhere")}}
    first, _ = train(
        {**changes, **elsewhere, "validation": {**SHARE["validation"], "use_best": True}}
    )
    assert all(torch.equal(kept[k], v) for k, v in load_file(first.lora).items())
    last, told = train({**changes, **elsewhere})
    assert told[-1]["reused"]
    assert all(torch.equal(ended[k], v) for k, v in load_file(last.lora).items())
    # the weights of that step, as a run that ends there has them
    short = {**changes, "schedule": {"steps": step, "kind": "constant"}}
    other, _ = train({**short, "folders": {"runs": str(tmp_path / "short")}})
    assert all(torch.equal(kept[k], v) for k, v in load_file(other.lora).items())
    with safe_open(best.lora, "pt") as file:
        said = file.metadata()
    assert said["troupe.step"] == str(step) and float(said["troupe.validation_loss"]) == after[step]
    assert said["ss_num_validation_images"] == "2"


def test_the_file_holds_the_running_mean(train, job_values):
    """Against the mean of the weights of every step, taken by hand."""
    from training.tensorfile import read_tensors

    changes = {
        "optimizer": {"ema_decay": 0.15},
        "saving": {"every_steps": 1, "keep": 9, "precision": "fp32"},
    }
    seen = []

    def watch():
        folder = next(iter(Path(runs).glob("*/states")), None)
        files = sorted(folder.glob("state-*.safetensors")) if folder else []
        if files and (not seen or files[-1] != seen[-1][0]):
            seen.append((files[-1], read_tensors(files[-1])[0]))
        return False

    runs = job_values["folders"]["runs"]
    outcome, _ = train(changes, watch)
    assert [path.stem for path, _ in seen] == [f"state-{n:08d}" for n in (1, 2, 3)]
    trained = [{k: v for k, v in t.items() if k.startswith("adapter/")} for _, t in seen]
    last = read_tensors(next(Path(runs).glob("*/states/state-*4.safetensors")))[0]
    trained.append({k: v for k, v in last.items() if k.startswith("adapter/")})
    mean = dict(trained[0])
    for n, weights in enumerate(trained[1:], 1):
        decay = min(0.15, (1 + n) / (10 + n))
        mean = {k: decay * v + (1 - decay) * weights[k] for k, v in mean.items()}
    written = load_file(outcome.lora)
    ups = sorted(k for k in mean if k.endswith(".up"))
    files = sorted(k for k in written if k.endswith("lora_up.weight"))
    assert len(ups) == len(files) > 4
    total = sum(float(mean[k].double().square().sum()) for k in ups)
    assert sum(float(written[k].double().square().sum()) for k in files) == pytest.approx(total)
    plain = sum(float(trained[-1][k].double().square().sum()) for k in ups)
    assert total != pytest.approx(plain, rel=1e-3)


def test_asking_for_the_best_of_nothing_says_so(train):
    _, events = train({"validation": {"use_best": True}})
    assert any("last weights" in e["message"] for e in events if e["event"] == "warning")


def test_other_pictures_start_the_scores_anew(train, pictures, tmp_path):
    folder = tmp_path / "more"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    train()
    outcome, events = train({"validation": {"folder": str(folder)}})
    assert events[-1]["reused"] and events[-1]["validation"] == []
    job = load_job(outcome.lora.parent / "job.yaml")
    assert job.validation.folder == str(folder)
