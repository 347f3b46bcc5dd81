"""Compiled blocks: the losses of uncompiled ones over several sizes; no compiler, no surprise."""

import pytest
import torch

from training import JobError, merge
from training.compiled import check_compiler, compile_blocks
from training.memory import apply_plan

SIZES = {"buckets": {"step": 16}, "batch": {"size": 1}}  # three shapes among five pictures


HARD = {  # with everything that also reaches into the blocks
    "memory": {"gradient_checkpointing": "on", "fused_backward": "on"},
    "optimizer": {"max_grad_norm": 0},
}


def losses(made, numbers: list[int]) -> list[float]:
    plan, adapter, _, loop = made
    adapter.unet.train()
    apply_plan(adapter.unet, plan.memory)
    return [loop.step(n).loss for n in numbers]


def test_the_losses_are_those_of_uncompiled_blocks(make_loop):
    plain, other = (make_loop(merge(SIZES, HARD)) for _ in range(2))
    plan = plain[0]
    sizes = [plan.placements[plan.sampler.batch(n)[0]].bucket_size for n in range(5)]
    numbers = [0, next(n for n in range(5) if sizes[n] != sizes[0])]
    expected = losses(plain, numbers)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    try:
        assert compile_blocks(other[1].unet, "aot_eager") == 12  # 8 resnets, 4 transformer blocks
        found = losses(other, numbers)
        assert counters["stats"]["unique_graphs"] >= 4 and not counters["graph_break"]
    finally:
        torch._dynamo.reset()
    assert found == pytest.approx(expected, rel=1e-5)
    weights = zip(plain[1].parameters(), other[1].parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in weights)


def test_a_machine_without_a_compiler_is_told_before_anything_is_encoded(
    train, monkeypatch, tmp_path
):
    from torch._inductor import config, utils

    # torch 2.5 calls it by the longer name
    fresh_cache = getattr(utils, "fresh_cache", None) or utils.fresh_inductor_cache
    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    with fresh_cache():
        with pytest.raises(
            JobError, match=r"memory\.compile.*install a C\+\+ compiler.*choose off"
        ):
            check_compiler(torch.device("cpu"))
        with pytest.raises(JobError, match=r"memory\.compile"):
            train({"memory": {"compile": "blocks"}})
    assert not list(tmp_path.glob("cache/**/*.safetensors"))
