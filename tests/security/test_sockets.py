"""No value written into a prompt passes for what only a node can give."""

import importlib
import math

import pytest
import torch

LITERALS = [
    "text", "", "../x", 0, 1, -7, 0.5, math.nan, math.inf, True, False, [], [1, 2, 3], ["a"], {},
    {"a": 1}, {"saving": {"output": "victim.txt"}}, {"validation": {"folder": "/"}},
    {"samples": [[1]]}, {"adapter": {"start_from": "/etc/passwd"}}, {"items": [], "name": "x"},
    {"waveform": []}, {"source": "/etc/passwd"},
]  # fmt: skip
TAKES_DATA = {"POSE_KEYPOINT", "COMFY_AUTOGROW_V3"}  # plain data by contract, or looked into
ANY_MAPPING = {"IPADAPTER", "AUDIO"}  # what lies in it is looked at by who reads it
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


@pytest.fixture
def guard(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.runtime.guard")


def sockets(pack):
    """Every input that only a link can feed."""
    for node in pack.nodes.NODES:
        for item in node.GET_SCHEMA().inputs:
            item = getattr(getattr(item, "template", None), "input", item)
            if not WIDGETS | TAKES_DATA >= set(item.get_io_type().split(",")):
                yield item


def test_every_socket_is_known_to_the_guard(pack, guard):
    """A new socket type must say what it holds."""
    kinds = {kind for item in sockets(pack) for kind in item.get_io_type().split(",")}
    assert not kinds - TAKES_DATA - set(guard.SOCKETS)


def test_literals_are_refused_on_every_socket(pack, guard):
    tried = 0
    for item in sockets(pack):
        for literal in LITERALS:
            kinds = set(item.get_io_type().split(","))
            if isinstance(literal, str) and "STRING" in kinds:
                continue
            if isinstance(literal, dict) and (kinds & ANY_MAPPING or literal == {}):
                continue
            tried += 1
            with pytest.raises(guard.SocketError, match=f"^{item.id}: got "):
                guard.check(literal, item)
    assert tried > 500


def test_a_node_refuses_before_it_runs(pack, guard, sandbox):
    train = next(n for n in pack.nodes.NODES if n.GET_SCHEMA().node_id == "TroupeTrainLora")
    written = {"saving": {"output": str(sandbox.outside / "victim.txt")}}
    with pytest.raises(guard.SocketError, match="options"):
        train.EXECUTE_NORMALIZED(
            checkpoint="x.safetensors", dataset=None, preset="character", options=written
        )
    assert [file.name for file in sandbox.outside.iterdir()] == ["secret.txt"]


def test_sockets_that_grow_are_looked_into(pack, guard):
    nodes = {n.GET_SCHEMA().node_id: n for n in pack.nodes.NODES}
    with pytest.raises(guard.SocketError, match="shot: got a value of type dict"):
        nodes["TroupeTimeline"].execute({"shot0": {"source": "/etc/passwd"}}, 24.0, 0, 0)
    with pytest.raises(guard.SocketError, match="datasets: got a value of type str"):
        nodes["TroupeCombineDatasets"].execute(datasets="all")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite(pack, guard, value):
    """NaN passes ComfyUI's own bounds: neither below the minimum nor above the maximum."""
    tried = 0
    for node in pack.nodes.NODES:
        for item in node.GET_SCHEMA().inputs:
            if item.get_io_type() == "FLOAT":
                tried += 1
                with pytest.raises(guard.SocketError, match=f"^{item.id}: got .*finite"):
                    node.execute(**{item.id: value})
    assert tried > 30
    mask = torch.zeros(1, 4, 4)
    mask[0, 0, 0] = value
    with pytest.raises(guard.SocketError, match="mask"):
        nodes = {n.GET_SCHEMA().node_id: n for n in pack.nodes.NODES}
        nodes["TroupeApplyReference"].execute(mask=mask)
