"""The benchmark for GPUs runs through on a CPU with a small UNet, and counts right."""

import math

import pytest
import torch

from bench._mfu import FORWARD_ATTENTION, FORWARD_BASE, FORWARD_LORA, LEVELS, SMALL, Setup, _rows


def test_every_combination_is_measured_beside_its_peer():
    setup = Setup(SMALL, 64, torch.device("cpu"), torch.float32, steps=1)
    rows = {row.name: row for row in _rows(setup, (1,), None)}
    names = {f"training.mfu.batch1.twice_{lv}{c}" for lv in LEVELS for c in ("", ".compiled")}
    names |= {f"training.mfu.batch1.streamed{c}" for c in ("", ".compiled")}
    assert {n for n in rows if n.endswith("img_per_s")} == {f"{n}.img_per_s" for n in names}
    for row in rows.values():
        assert math.isfinite(row.value) and row.value >= 0
        assert row.name.endswith("peak_mb") or row.ratio > 0


def test_the_work_of_a_forward_pass_is_sdxl_s():
    """The published 6.76 TFLOP per picture at 1024 px, and our own count of its blocks."""
    from bench._mfu import SDXL
    from training.activations import units

    assert FORWARD_BASE + FORWARD_ATTENTION == pytest.approx(6.76e12, rel=0.01)
    assert FORWARD_LORA < 0.02 * FORWARD_BASE
    counted = sum(u.work for u in units(SDXL, 1024, 1024, 1, {}))
    assert counted == pytest.approx(6.76e12, rel=0.08)
