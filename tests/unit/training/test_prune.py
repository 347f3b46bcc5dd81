"""The cache stays within its limit, loses what was not used for longest, and nothing else."""

import json
import os
import time

import pytest

from training import merge, parse_job
from training.cache import encode
from training.plan import make_plan
from training.prune import mark_used, prune


def entry(cache, name: str, size: int, days: float):
    path = cache / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    moment = time.time() - days * 86400
    os.utime(path, (moment, moment))
    return path


@pytest.fixture
def cache(tmp_path):
    entry(tmp_path, "latents/old.safetensors", 100, 9)
    entry(tmp_path, "text/older.safetensors", 100, 10)
    entry(tmp_path, "masks/new.safetensors", 100, 2)
    entry(tmp_path, "latents/now.safetensors", 100, 0)
    return tmp_path


def left(cache):
    return sorted(p.name.split(".")[0] for p in cache.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (400, ["new", "now", "old", "older"]),
        (399, ["new", "now", "old"]),
        (200, ["new", "now"]),
        (0, ["now"]),  # it may belong to a run that is going on
    ],
)
def test_what_was_not_used_for_longest_goes_first(cache, limit, expected):
    report = prune(cache, limit)
    assert left(cache) == expected
    assert report.removed == 4 - len(expected) == report.freed_bytes // 100
    assert report.left == len(expected) and report.left_bytes == 100 * len(expected)


def test_kept_and_used_entries_stay(cache):
    mark_used([cache / "text/older.safetensors"])
    prune(cache, 0, keep=[cache / "latents/old.safetensors"])
    assert left(cache) == ["now", "old", "older"]


def test_nothing_but_the_cache_s_own_files_is_touched(cache):
    foreign = [
        entry(cache, name, 10**6, 99)
        for name in ("notes.safetensors", "latents/readme.txt", "other/x.safetensors")
    ]
    entry(cache, "latents/k.safetensors.123.part", 10, 3)
    entry(cache, "latents/busy.safetensors.124.part", 10, 0)
    prune(cache, 10**9)
    assert all(path.exists() for path in foreign)
    assert not (cache / "latents/k.safetensors.123.part").exists()
    assert (cache / "latents/busy.safetensors.124.part").exists()
    assert prune(cache / "nowhere", 0).left == 0


def test_a_run_prunes_what_others_left_and_keeps_its_own(job_values):
    plan = make_plan(parse_job(merge(job_values, {"cache": {"limit_gb": 1e-9}})))
    stranger = entry(plan.cache_dir, "latents/stranger.safetensors", 5000, 30)
    data = encode(plan, [], lambda *_: None)
    assert not stranger.exists()
    assert len(list((plan.cache_dir / "latents").iterdir())) == len(plan.placements)
    assert data.batch([0]).latents.shape[1] == 4
    never = make_plan(parse_job(merge(job_values, {"cache": {"limit_gb": 0}})))
    stranger = entry(plan.cache_dir, "latents/stranger.safetensors", 5000, 30)
    encode(never, [], lambda *_: None)
    assert stranger.exists()


def test_the_command_tells_and_removes(cache, capsys):
    from training.cli import main

    assert main(["cache", str(cache)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["removed"], said["left"]) == (0, 4) and len(left(cache)) == 4
    assert main(["cache", str(cache), "--limit-gb", str(250 / 2**30)]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == 2 and left(cache) == ["new", "now"]
    assert main(["cache", str(cache), "--limit-gb", "0"]) == 0 and left(cache) == []


@pytest.mark.parametrize("limit", ["-1", "nan", "inf"])
def test_the_command_refuses_what_is_no_cache_or_number(cache, tmp_path, capsys, limit):
    from training.cli import main

    assert main(["cache", str(tmp_path / "gone"), "--limit-gb", "0"]) == 2
    assert "is no cache" in capsys.readouterr().err
    assert main(["cache", str(cache), f"--limit-gb={limit}"]) == 2
    assert "--limit-gb" in capsys.readouterr().err and len(left(cache)) == 4
