"""The memory plan against the peak of what the allocator really hands out in a step."""

import pytest
from torch.profiler import ProfilerActivity, profile

from training import merge
from training.memory import apply_plan

LARGE = {"buckets": {"resolution": 256, "upscale": True, "step": 64}}
WIDE = {"adapter": {"rank": 128, "targets": "all"}, "memory": {"gradient_checkpointing": "on"}}
FUSED = {"memory": {"fused_backward": "on"}, "optimizer": {"max_grad_norm": 0}}
TWINS = {"optimizer": {"kind": "prodigy", "weights": "bf16"}}


@pytest.fixture
def peaks(make_loop):
    """peaks(changes) -> bytes of a step beside the weights: (predicted, measured, gradients)."""

    def measure(changes: dict) -> tuple[int, int, int]:
        plan, adapter, _, loop = make_loop(merge(LARGE, changes))
        adapter.unet.train()
        apply_plan(adapter.unet, plan.memory)
        areas = [p.bucket_size[0] * p.bucket_size[1] for p in plan.placements]
        largest = next(n for n in range(9) if areas[plan.sampler.batch(n)[0]] == max(areas))
        loop.step(9)  # from now on the optimizer has its memory
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            loop.step(largest)
        events = seen.profiler.kineto_results.events()
        changed = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
        now = most = 0
        for _, size in changed:
            now += size
            most = max(most, now)
        memory = plan.memory
        return memory.total - memory.weights - memory.adapter, most, memory.gradients

    return measure


@pytest.mark.parametrize(
    "changes", [{}, WIDE, merge(WIDE, TWINS)], ids=["plain", "wide-twice", "bf16-prodigy"]
)
def test_the_predicted_peak_is_the_real_one(peaks, changes):
    predicted, measured, _ = peaks(changes)
    assert 0.9 < predicted / measured < 1.25, (predicted, measured)


def test_gradients_used_up_at_once_really_save_memory(peaks):
    predicted, measured, gradients = peaks(WIDE)
    predicted_fused, measured_fused, left = peaks(merge(WIDE, FUSED))
    assert left < gradients / 10
    assert measured - measured_fused > 0.4 * gradients
    assert 0.9 * measured < predicted < 1.3 * measured
    assert 0.9 * measured_fused < predicted_fused < 1.4 * measured_fused
