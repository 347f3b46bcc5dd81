"""Jobs: every complaint names the setting and the remedy; identity follows what matters."""

import json
import re
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from training import PRESETS, JobError, all_settings, load_job, merge, parse_job, setting
from training.fields import Section
from training.job import TrainingJob
from training.settings import identity_digest, override, parse_text

LEAST = {"base": {"checkpoint": "model.safetensors"}, "dataset": {"folder": "pictures"}}

BAD = {
    "unknown section": ({"optimizr": {}}, "Unknown setting 'optimizr': did you mean 'optimizer'"),
    "unknown field": (
        {"optimizer": {"learning_rat": 1}},
        "Unknown setting 'optimizer.learning_rat': did you mean 'optimizer.learning_rate'",
    ),
    "field outside of its section": ({"rank": 8}, "did you mean 'adapter.rank'"),
    "nothing like it": ({"xyzzy": 1}, "Unknown setting 'xyzzy': remove it"),
    "too large": ({"adapter": {"rank": 9999}}, "'adapter.rank'.*512.*got 9999"),
    "negative": ({"schedule": {"steps": -1}}, "'schedule.steps'.*greater.*got -1"),
    "no number": ({"schedule": {"steps": "many"}}, "'schedule.steps'.*integer.*got 'many'"),
    "not finite": ({"optimizer": {"learning_rate": float("nan")}}, "'optimizer.learning_rate'"),
    "unknown choice": ({"schedule": {"kind": "cosin"}}, "'schedule.kind'.*'constant'.*'cosine'"),
    "contradiction": (
        {"objective": {"timestep_min": 900, "timestep_max": 100}},
        "timestep_min must be below",
    ),
    "section is a number": ({"adapter": 3}, "'adapter'"),
    "too small": ({"buckets": {"resolution": 32}}, "'buckets.resolution'.*0 or at least 64"),
    "odd size": ({"buckets": {"resolution": 1001}}, "'buckets.resolution'.*multiple of 8"),
    "name with a path": ({"name": "../x"}, "'name'"),
    "no device": ({"memory": {"device": "toaster"}}, "'memory.device'"),
    "other version": ({"version": 99}, "'version'"),
    "unknown preset": ({"preset": "nope"}, "Unknown preset 'nope': choose one of character"),
    "dataset field": ({"dataset": {"foldr": "x"}}, "did you mean 'dataset.folder'"),
}


@pytest.mark.parametrize("case", BAD)
def test_complaints_name_setting_and_remedy(case):
    values, message = BAD[case]
    with pytest.raises(JobError, match=message) as error:
        parse_job(merge(LEAST, values))
    assert "\n" not in str(error.value)


def test_missing_sections_are_named():
    with pytest.raises(JobError, match="'base' is missing"):
        parse_job({"dataset": {"folder": "x"}})
    with pytest.raises(JobError, match="mapping of sections"):
        parse_job([1, 2])


def test_own_values_win_over_presets_and_presets_over_defaults():
    for name, preset in PRESETS.items():
        job = parse_job(merge(LEAST, {"preset": name, "adapter": {"rank": 3}}))
        assert job.adapter.rank == 3 and job.alpha == 3.0
        assert job.schedule.steps == preset.values["schedule"]["steps"]
        assert preset.help


def test_every_setting_explains_itself():
    found = all_settings()
    assert len(found) > 50 and len({s.path for s in found}) == len(found)
    for item in found:
        assert item.description and item.description[0].isupper(), item.path
        assert item.description.rstrip().endswith("."), item.path
        if item.kind in ("int", "float") and item.default is not None:
            assert item.minimum is None or item.default >= item.minimum
            assert item.maximum is None or item.default <= item.maximum
    rank = setting("adapter.rank")
    assert (rank.kind, rank.minimum, rank.maximum) == ("int", 1, 512)
    assert setting("schedule.kind").choices[:2] == ("constant", "cosine")
    assert setting("adapter.alpha").kind == "float"
    for model in TrainingJob.model_fields.values():
        section = model.annotation
        if hasattr(section, "model_fields"):
            assert section.__doc__, section


def test_fields_are_written_as_every_pydantic_2_reads_them():
    """2.0 to 2.0.2 refuse bounds at two places of a field, and counts in patterns."""
    waiting = [TrainingJob]
    while waiting:
        section = waiting.pop()
        for name, info in section.model_fields.items():
            written = section.__annotations__[name]
            for rule in getattr(written, "__metadata__", ()):
                assert not isinstance(rule, FieldInfo), f"{section.__name__}.{name}"
            if isinstance(written, type) and issubclass(written, Section):
                waiting.append(written)
            patterns = [getattr(rule, "pattern", None) or "" for rule in info.metadata]
            assert not re.search(r"\{\d*,?\d+\}", "".join(patterns)), f"{section.__name__}.{name}"


def test_job_files_are_read_with_their_own_folder(tmp_path):
    (tmp_path / "job.yaml").write_text(
        "preset: style\nbase: {checkpoint: models/m.safetensors}\n"
        "dataset: {folder: pictures}\noptimizer: {learning_rate: 2e-4}\n",
        "utf-8",
    )
    job = load_job(tmp_path / "job.yaml", override(["seed=5", "samples.prompts=[a, b]"]))
    assert Path(job.base.checkpoint) == tmp_path / "models" / "m.safetensors"
    assert Path(job.dataset.folder) == tmp_path / "pictures"
    assert (job.seed, job.optimizer.learning_rate, job.adapter.rank) == (5, 2e-4, 32)
    assert job.samples.prompts == ["a", "b"]
    dumped = job.model_dump(mode="json")
    (tmp_path / "again.json").write_text(json.dumps(dumped), "utf-8")
    assert load_job(tmp_path / "again.json") == job


def test_unreadable_job_files_are_named(tmp_path):
    with pytest.raises(JobError, match="gone.yaml.*cannot be read"):
        load_job(tmp_path / "gone.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1,\nb: }", "utf-8")
    with pytest.raises(JobError, match="'bad.yaml' is not valid YAML in line 2"):
        load_job(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- a\n", "utf-8")
    with pytest.raises(JobError, match="not list"):
        load_job(tmp_path / "list.yaml")
    with pytest.raises(JobError, match="section.field=value"):
        override(["steps 5"])
    assert parse_text("") == {}
    with pytest.raises(JobError):
        parse_text("!!python/object/apply:os.system ['true']")


def test_identity_follows_settings_that_change_the_weights():
    content = {"checkpoint": "c", "dataset": "d"}

    def digest(values: dict, decided: dict | None = None, **changed: str) -> str:
        job = parse_job(merge(LEAST, values))
        return identity_digest(job, decided or {}, **(content | changed))

    same = digest({})
    for free in (
        {"name": "other"},
        {"saving": {"every_steps": 5, "precision": "bf16"}},
        {"samples": {"prompts": ["x"]}},
        {"memory": {"gradient_checkpointing": "on"}},
        {"folders": {"runs": "elsewhere"}},
        {"base": {"checkpoint": "moved/model.safetensors"}},
        {"dataset": {"folder": "moved"}},
        {"adapter": {"alpha": 16.0}},  # what an empty alpha means
    ):
        assert digest(free) == same, free
    for bound in (
        {"seed": 1},
        {"adapter": {"rank": 8}},
        {"optimizer": {"weight_decay": 0.5}},
        {"schedule": {"steps": 7}},
        {"buckets": {"upscale": True}},
        {"memory": {"precision": "fp32"}},
        {"batch": {"accumulation": 2}},
    ):
        assert digest(bound) != same, bound
    assert digest({}, dataset="other") != same
    assert digest({}, checkpoint="other") != same
    decided = {"buckets.resolution": 1024}
    assert digest({}, decided) == digest({"buckets": {"resolution": 1024}}) != same


def test_a_job_may_name_tens_of_thousands_of_pictures(tmp_path):
    """What a node sends: JSON with every picture, its caption and its digest."""
    item = {"path": "/data/" + "x" * 60, "caption": "a dancer, " * 20, "digest": "0" * 64}
    values = {"base": {"checkpoint": "x"}, "dataset": {"items": [item] * 20_000}, "name": "big"}
    assert parse_text(json.dumps(values, indent=2)) == values
    assert parse_text("{name: big, base: {}}") == {"name": "big", "base": {}}  # YAML's own braces


def test_aliases_are_welcome_while_they_stand_for_little():
    text = "a: &a {rank: 8, alpha: 4}\nb: {<<: *a, alpha: 2}\nc: *a\n"
    assert parse_text(text)["b"] == {"rank": 8, "alpha": 2}
