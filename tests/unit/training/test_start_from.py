"""Training that goes on from a LoRA file."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from training import FileError, JobError, load_job, open_checkpoint
from training.weights import Weights

from .test_adapter import unet_inputs
from .test_files import assert_same_effect, effect, make_lora  # noqa: F401


def start(path, **adapter):
    return {"adapter": {"start_from": str(path), **adapter}}


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr", "oft"])
def test_the_first_output_is_the_file_s(make_lora, make_loop, tiny_checkpoint, kind):  # noqa: F811
    """Whatever its kind, rank and alpha; the rank is high enough here to hold all of it."""
    path = make_lora("zoe", {"kind": kind, "rank": 4, "targets": "all"})
    changes = start(path, rank=96, alpha=7.0, targets="all")
    _, adapter, _, _ = make_loop(changes)
    _, plain, _, _ = make_loop()
    with torch.no_grad():
        weights = Weights(open_checkpoint(tiny_checkpoint))
        for name, delta in effect(path, tiny_checkpoint).items():
            layer = plain.unet.get_submodule(name)
            base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
            base.weight.copy_(weights.get(name) + delta)
        expected, got = plain.unet(**unet_inputs()).sample, adapter.unet(**unet_inputs()).sample
    assert (expected - got).abs().max() <= 1e-4 * expected.abs().max()


def test_a_run_goes_on_from_a_run(train, tiny_checkpoint, tmp_path):
    first, _ = train({"saving": {"precision": "fp32"}})
    small = {"optimizer": {"learning_rate": 1e-9}, "saving": {"precision": "fp32"}}
    second, events = train({**start(first.lora), **small})
    assert_same_effect(
        effect(first.lora, tiny_checkpoint), effect(second.lora, tiny_checkpoint), 1e-3
    )
    assert str(tmp_path) not in second.lora.read_bytes()[:100_000].decode("latin-1")
    other = load_file(first.lora)
    key = next(k for k in other if k.endswith("up.weight"))
    other[key] += 1
    save_file(other, tmp_path / "other.safetensors")
    third, _ = train({**start(tmp_path / "other.safetensors"), **small})
    assert third.lora.parent != second.lora.parent != first.lora.parent  # runs of their own
    again, events = train({**start(first.lora), **small})
    assert events[-1]["reused"] and again.lora == second.lora


def test_paths_are_relative_to_the_job(job_values, tmp_path):
    import yaml

    job_values["adapter"]["start_from"] = "mine/zoe.safetensors"
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job_values), "utf-8")
    job = load_job(tmp_path / "job.yaml")
    assert job.adapter.start_from == str((tmp_path / "mine" / "zoe.safetensors").resolve())


def test_what_cannot_be_gone_on_from_is_named(make_lora, make_loop, tmp_path):  # noqa: F811
    path = make_lora("zoe", {"rank": 4})
    with pytest.raises(JobError, match="start_from needs kind lora or rslora, not oft"):
        make_loop(start(path, kind="oft", alpha=None))
    with pytest.raises(FileError, match="none.safetensors' does not exist"):
        make_loop(start(tmp_path / "none.safetensors"))
    with pytest.raises(JobError, match="no layer of 'zoe.safetensors' is trained"):
        make_loop(start(path, layers=["conv_out"]))
    tensors = {k: v[:, :8].contiguous() if v.ndim == 2 else v for k, v in load_file(path).items()}
    save_file(tensors, tmp_path / "small.safetensors")
    with pytest.raises(FileError, match="made for another model"):
        make_loop(start(tmp_path / "small.safetensors"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FileError, match="truncated or damaged"):
        make_loop(start(path))
