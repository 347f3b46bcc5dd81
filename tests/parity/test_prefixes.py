"""filename_prefix is filled in as the front end does it for core's own savers."""

import importlib
import re
from datetime import datetime
from types import SimpleNamespace

import pytest

NOW = datetime(2026, 3, 7, 4, 5, 9)


@pytest.fixture
def prefixes(pack, monkeypatch):
    module = importlib.import_module(f"{pack.__name__}.nodes.runtime.prefixes")

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return NOW

    monkeypatch.setattr(module, "datetime", Clock)
    return module


# what formatDate of comfyui-frontend-package 1.47 gives (which stops at a dot; we go on)
DATES = {
    "%date:yyyy-MM-dd%": "2026-03-07",
    "%date:yy-M-d_h.m.s%": "26-3-7_4.5.9",
    "%date:hhmmss%": "040509",
    "%date:ddd yyy y%": "077 yyy y",
    "%date:%": "",
    "a/%date:dd%/%date:MM%": "a/07/03",
    "%year% %width% 50%": "%year% %width% 50%",
}


@pytest.mark.parametrize("prefix", DATES)
def test_dates(prefixes, prefix):
    assert prefixes.with_dates(prefix) == DATES[prefix]


def node(kind: str, title: str = "", **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs, **({"_meta": {"title": title}} if title else {})}


PROMPT = {
    "3": node("KSampler", "Sampler: final", seed=18446744073709552000, cfg=8.0, denoise=0.00005),
    "5": node("KSampler", "second", seed=2, cfg=1e-7),
    "7:2": node("CLIPTextEncode", "Said", text='a "red" coat/\nnight?', clip=["4", 1], on=True),
    "9": node("Odd", seed=None),
}
WORKFLOW = {
    "nodes": [
        {"id": 5, "properties": {"Node name for S&R": "KSampler"}},
        {"id": 3, "properties": {"Node name for S&R": "mine"}},
        {"id": 7, "type": "a-graph", "properties": {}},
    ],
    "definitions": {
        "subgraphs": [
            {"id": "a-graph", "nodes": [{"id": 2, "properties": {"Node name for S&R": "words"}}]}
        ]
    },
}
VALUES = {
    "%KSampler.seed%": "2",
    "%mine.seed%_%mine.cfg%": "18446744073709552000_8",
    "%mine.denoise%": "0.00005",
    "%second.cfg%": "1e-7",
    "%Sampler: final.seed%": "18446744073709552000",
    "%words.text%": "a _red_ coat__night_",
    "%Said.on%": "true",
    "%Odd.seed%": "",
    "%words.clip%": "%words.clip%",
    "%words.gone%": "%words.gone%",
    "%nobody.seed%": "%nobody.seed%",
    "%a.b.c%": "%a.b.c%",
}


@pytest.mark.parametrize("prefix", VALUES)
def test_values_of_other_nodes(prefixes, prefix):
    hidden = SimpleNamespace(prompt=PROMPT, extra_pnginfo={"workflow": WORKFLOW})
    assert prefixes.with_values(prefix, hidden) == VALUES[prefix]


def test_a_prompt_of_the_api_has_no_workflow(prefixes):
    hidden = SimpleNamespace(prompt=PROMPT, extra_pnginfo=None)
    assert prefixes.with_values("%KSampler.seed%", hidden) == "18446744073709552000"
    assert prefixes.with_values("%second.seed%_%date:dd%", hidden) == "2_07"
    assert prefixes.with_values("%second.seed%", None) == "%second.seed%"


@pytest.mark.parametrize("info", [[], {"workflow": 3}, {"workflow": {"nodes": [1, {"id": 3}]}}])
def test_odd_workflows_are_no_error(prefixes, info):
    odd = {**PROMPT, "1": 5, "2": {"inputs": []}}
    hidden = SimpleNamespace(prompt=odd, extra_pnginfo=info)
    assert prefixes.with_values("%second.seed%", hidden) == "2"


def test_savers_are_given_filled_prefixes(pack, sandbox, prefixes):
    """Through a node: the date in the file's name, and another file when the date is another."""
    nodes = importlib.import_module(f"{pack.__name__}.nodes.pose")
    pose = [{"people": [], "canvas_width": 64, "canvas_height": 48}]
    prefix = "p/%date:yyyy-MM-dd%/%width%x%height%_%year%"
    assert nodes.TroupeSavePose.validate_inputs(filename_prefix=prefix) is True
    nodes.TroupeSavePose.execute(pose=pose, filename_prefix=prefix)
    (made,) = sandbox.output.rglob("*.json")
    assert made.parent == sandbox.output / "p" / "2026-03-07"
    assert re.fullmatch(r"64x48_\d{4}_00001_\.json", made.name)
    hidden = {"hidden_inputs": {nodes.io.Hidden.prompt: PROMPT}}  # as core hands it over
    running = nodes.TroupeSavePose.PREPARE_CLASS_CLONE(hidden)
    running.execute(pose=pose, filename_prefix="q_%second.seed%")
    assert (sandbox.output / "q_2_00001_.json").is_file()
    for module, name in (("pose", "SavePose"), ("video", "SaveVideo"), ("training", "TrainLora")):
        saver = getattr(importlib.import_module(f"{pack.__name__}.nodes.{module}"), f"Troupe{name}")
        if module != "training":  # which looks at its checkpoint as well
            assert saver.fingerprint_inputs(filename_prefix="%date:dd%") == "07"
        assert "':'" in saver.validate_inputs(filename_prefix="%date:hh:mm%")
        assert saver.validate_inputs(filename_prefix="%A: b?.seed%") is True  # filled in later
