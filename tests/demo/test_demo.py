"""`python -m demo`, at a small size, in a folder of its own."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_demo_makes_a_film_a_lora_and_a_report(tmp_path):
    output = tmp_path / "demo"
    command = [sys.executable, "-m", "demo", "--output", str(output)]
    command += ["--canvas", "128", "--frames", "2"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((output / "report.json").read_text("utf-8"))
    assert set(report["stages_s"]) >= {"start", "train", "compose", "sample", "film"}
    assert report["peak_memory_mb"] > 0
    assert (output / "film.mp4").stat().st_size == report["film"]["bytes"]
    assert (output / report["lora"]).is_file()
    assert len(report["pictures"]) == 4
