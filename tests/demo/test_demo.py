"""`python -m demo`: the film, the LoRA, and what the trained miniature is seen to do.

The figures come from the drawn world's own truth, on scenes that training never saw. Few pictures
make a coarse figure, so every margin here lies well below what many pictures give (demo/README.md).
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FRAMES, PICTURES = 4, 12


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo") / "demo"


@pytest.fixture(scope="module")
def report(output) -> dict:
    command = [sys.executable, "-m", "demo", "--output", str(output)]
    command += ["--frames", str(FRAMES), "--proof", str(PICTURES)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2400)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads((output / "report.json").read_text("utf-8"))


def test_the_demo_makes_a_film_a_lora_and_a_report(report, output):
    assert set(report["stages_s"]) >= {"start", "train", "compose", "sample", "film", "proof"}
    assert report["peak_memory_mb"] > 0
    assert (output / "film.mp4").stat().st_size == report["film"]["bytes"]
    assert (output / report["lora"]).is_file()
    assert (output / "loss.png").is_file() and (output / "scene_sheet_0.png").is_file()
    assert report["lora_keys_not_loaded"] == 0


def test_prompts_come_true(report):
    text = report["proof"]["text"]
    assert text["garment_type"] >= 0.75 and text["background"] >= 0.75, text
    assert text["garment_colour"] >= 0.6, text


def test_people_take_the_pose(report):
    pose = report["proof"]["pose"]
    assert pose["iou"] >= 0.7 and pose["iou"] >= pose["free"] + 0.2, pose


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("attire", "garment_colour"),
        ("attire", "garment_pattern"),
        ("attire", "shoes"),
        ("background", "background"),
        ("character", "hair_colour"),
        ("character", "skin"),
    ],
)
def test_references_carry_over_what_they_show(report, role, name):
    found = report["proof"][role]
    assert found["with"][name] >= 0.65, found
    assert found["without"][name] <= min(0.42, found["with"][name] - 0.25), found


@pytest.mark.parametrize("name", ["hair_style", "mark"])
def test_a_character_carries_over_what_is_small(report, name):
    """One style in five and one mark in four come right by chance; of twelve it may be more."""
    found = report["proof"]["character"]
    assert found["with"][name] >= max(0.5, found["without"][name] + 0.2), found


def test_an_outfit_leaves_the_hair_to_the_prompt(report):
    assert report["proof"]["attire"]["with"]["hair_colour"] >= 0.8


def test_the_lora_shows_its_character_when_called_and_nobody_else(report):
    lora = report["proof"]["lora"]
    assert lora["with"]["character"] >= 0.6, lora
    assert lora["without"]["character"] <= 0.2, lora
    assert lora["others"]["hair_colour"] >= 0.8, lora
