"""What nodes tell before they run: as the run would have it, and whatever a page sends."""

import json
from importlib import import_module

import pytest
from safetensors.torch import save_file

SENTENCE = "must not contain '..'"


@pytest.fixture
def ask(pack, sandbox):
    asked = import_module(".nodes.runtime.asked", pack.__name__)
    tellers = import_module(".nodes.about", pack.__name__).TELLERS

    def ask(kind: str, inputs: dict, others: dict | None = None, deep: bool = False) -> dict:
        nodes = {**(others or {}), "it": {"class_type": kind, "inputs": inputs}}
        body = json.loads(json.dumps({"prompt": nodes, "nodes": ["it"], "deep": deep}))
        return asked.answers(body, tellers).get("it", {})

    ask.answers, ask.tellers = asked.answers, tellers
    return ask


def test_every_preset_resolves_to_what_is_trained(pack, ask):
    training = import_module(".training", pack.__name__)
    for name in training.PRESETS:
        base = {"base": {"checkpoint": "-"}, "dataset": {"folder": "-"}}
        job = training.parse_job(base, name)
        (fact,) = ask("TroupeTrainLora", {"preset": name, "steps": 0, "rank": 0})["facts"]
        assert f"{job.schedule.steps} steps, rank {job.adapter.rank}" in fact
        assert f"learning rate {job.optimizer.learning_rate:g}" in fact


def test_options_that_are_chained_count_as_when_they_run(ask):
    chain = {
        "a": {"class_type": "TroupeTrainingOptions", "inputs": {"batch_size": 4}},
        "b": {
            "class_type": "TroupeLearningOptions",
            "inputs": {"options": ["a", 0], "optimizer_kind": "lion", "validation_share": ["x", 0]},
        },
    }
    said = ask("TroupeAdapterOptions", {"options": ["b", 0], "adapter_kind": "dora"}, chain)
    for part in ("batch size 4", "optimizer kind lion", "adapter kind dora"):
        assert part in said["facts"][0]
    train = {"preset": "style", "steps": 100, "options": ["b", 0]}
    assert "100 steps, rank 32" in ask("TroupeTrainLora", train, chain)["facts"][0]


def test_memory_is_told_on_request(ask, sandbox, nano):
    target = sandbox.models / "checkpoints" / "nano.safetensors"
    target.symlink_to(nano.checkpoint)
    given = {"checkpoint": "nano.safetensors", "preset": "try out", "resolution": 128}
    assert ask("TroupeTrainLora", given)["more"]
    deep = ask("TroupeTrainLora", given, deep=True)
    assert "128 px, about 0.1 GB of main memory" in deep["facts"] and not deep["more"]


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("TroupeLoadDataset", {"folder": "../outside"}),
        ("TroupeLoadPose", {"pose_file": "../outside/secret.txt"}),
        ("TroupeCaptionImages", {"folder": "../outside"}),
        ("TroupeApplyLoras", {"files": "../../outside/secret.txt: 1"}),
    ],
)
def test_no_name_leads_out(ask, kind, inputs):
    said = ask(kind, inputs)
    assert said["facts"] == [] and SENTENCE in said["warnings"][0]


WRONG = [None, True, 1e400, -1, "", "\0", "x" * 99, [], ["it", 0], [[]], {}, {"a": [1]}]


@pytest.mark.parametrize("value", WRONG, ids=range(len(WRONG)))
def test_whatever_is_sent_is_answered(pack, ask, value):
    """Also nodes that are linked to themselves."""
    for node in pack.nodes.NODES:
        schema = node.GET_SCHEMA()
        said = ask(schema.node_id, {item.id: value for item in schema.inputs})
        assert set(said) <= {"facts", "warnings", "idle", "picture", "more"}
    for body in (value, {"prompt": value, "nodes": ["it"]}, {"prompt": {}, "nodes": value}):
        try:
            assert ask.answers(body, ask.tellers) == {}
        except ValueError as error:
            assert str(error).startswith("Send ")


def test_lists_without_an_entry_say_what_to_put_where(pack, sandbox):
    """Whatever combo of ours has nothing to choose from, choosing nothing is refused in words."""
    hints = {}
    for node in pack.nodes.NODES:
        for inputs in node.GET_NODE_INFO_V1()["input"].values():
            for name, about in inputs.items():
                if about[0] == "COMBO":
                    assert about[1]["options"], f"{node.__name__}.{name}"
                    first = about[1]["options"][0]
                    if str(first).startswith("put "):
                        hints[node, name] = first
    assert len(hints) == 6
    for (node, name), hint in hints.items():
        said = node.validate_inputs(**{name: hint})
        assert isinstance(said, str) and "models/" in said or "input/" in said, said


def test_a_seed_is_never_rolled_where_a_run_is_dear(pack):
    """By their names alone the editor rolls these after every run, which then begins anew."""
    for node in pack.nodes.NODES:
        for inputs in node.GET_NODE_INFO_V1()["input"].values():
            for name in {"seed", "noise_seed"} & set(inputs):
                assert inputs[name][1]["control_after_generate"] == "fixed", node.__name__


def test_errors_are_called_by_short_names(pack):
    errors = import_module(".nodes.runtime.errors", pack.__name__)
    errors.name_errors()
    for root in errors.ROOTS:
        assert root.__module__ == "troupe"


def test_a_damaged_checkpoint_is_told_before_it_runs(ask, sandbox):
    import torch

    save_file({"x": torch.zeros(1)}, sandbox.models / "checkpoints" / "no.safetensors")
    given = {"checkpoint": "no.safetensors", "preset": "style"}
    said = ask("TroupeTrainLora", given, deep=True)
    assert "cannot be trained" in said["warnings"][0]
