"""Twenty processes killed at random moments, several of them while they write a state."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.systems import needs_fork
from training import merge

HERE = Path(__file__).resolve()
KILLS = 20


@needs_fork
def test_a_run_killed_twenty_times_ends_bit_identical(job_values, tmp_path):
    job = merge(
        job_values,
        {
            "adapter": {"rank": 32},
            "schedule": {"steps": 160, "kind": "constant"},
            "saving": {"every_steps": 1, "precision": "fp32"},
        },
    )
    (tmp_path / "job.json").write_text(json.dumps(job), "utf-8")
    command = [HERE.with_name("kills.py"), HERE.parents[3], tmp_path / "job.json", KILLS]
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout)
    assert found["kills"] == KILLS and found["wrong"] == []
    assert found["writing"] >= 3, "too few were caught writing"
    assert found["compared"] >= KILLS // 2
    assert found["steps"] == sorted(found["steps"]) and found["steps"][-1] < 160
    assert found["same weights"]
