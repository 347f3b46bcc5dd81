"""Text encoders that learn: live captions, rates of their own, exact resume."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from training import open_checkpoint
from training.export import verify_lora
from training.state import State, capture, restore

BOTH = {"text_encoders": {"learning_rate_1": 5e-4, "learning_rate_2": 2e-4}}


def test_the_first_loss_is_that_of_cached_captions(make_loop):
    """Encoded live or read from the cache, a caption is the same before the first step."""
    _, _, _, frozen = make_loop()
    _, adapter, data, live = make_loop(BOTH)
    assert live.step(0).loss == pytest.approx(frozen.step(0).loss, rel=1e-6)
    models = {plan.model for plan in adapter.plans}
    assert models == {"unet", "text_encoder", "text_encoder_2"}
    assert [g["factor"] for g in adapter.groups()] == [1.0, 0.5, 0.2]


def test_gradients_reach_the_encoders_that_learn(make_loop):
    for rates, trained in (((1e-4, 0), {"text_encoder"}), ((0, 1e-4), {"text_encoder_2"})):
        keys = dict(zip(("learning_rate_1", "learning_rate_2"), rates, strict=True))
        _, adapter, _, loop = make_loop({"text_encoders": keys})
        before = {k: v.clone() for k, v in adapter.state().items()}
        loop.step(0)
        loop.step(1)
        moved = {k.partition(".")[0] for k, v in adapter.state().items() if (v != before[k]).any()}
        assert {m for m in moved if m.startswith("text")} == trained
        named = {k.partition(".")[0] for k in before if k.startswith("text")}
        assert named == trained


def test_own_rates_scale_the_first_step(make_loop):
    """AdamW's first step is as long as the rate, whatever the gradient's size."""
    changes = {
        "optimizer": {"weight_decay": 0.0, "max_grad_norm": 0},
        "schedule": {"kind": "constant"},
    }
    _, adapter, _, loop = make_loop({**BOTH, **changes})
    before = {k: v.clone() for k, v in adapter.state().items()}
    loop.step(0)
    rates = {"text_encoder": 5e-4, "text_encoder_2": 2e-4}
    longest = {}
    for key, value in adapter.state().items():
        model = key.partition(".")[0] if key.startswith("text") else "unet"
        step = float((value - before[key]).abs().max())
        longest[model] = max(longest.get(model, 0.0), step)
    for model, rate in {**rates, "unet": 1e-3}.items():
        assert longest[model] == pytest.approx(rate, rel=0.02), model


def test_a_resumed_run_goes_on_bit_identical(make_loop):
    _, adapter, _, loop = make_loop(BOTH)
    loop.step(0)
    saved = copy.deepcopy(capture(State(), adapter, loop.updater))
    loop.step(1)
    _, other, _, again = make_loop(BOTH)
    restore(saved, other, again.updater)
    again.step(1)
    assert all(torch.equal(v, other.state()[k]) for k, v in adapter.state().items())


def test_checkpointing_changes_no_gradient(make_loop):
    plain = make_loop(BOTH)
    saving = make_loop({**BOTH, "memory": {"gradient_checkpointing": "on"}})
    for _, adapter, _, loop in (plain, saving):
        adapter.train()
        loop.step(0)
    ours, theirs = plain[1].state(), saving[1].state()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], atol=1e-5, rtol=1e-3)


def test_the_file_and_the_samples(train, tiny_checkpoint):
    samples = {"samples": {"at_end": True, "steps": 1, "prompts": ["a picture"]}}
    schedule = {"schedule": {"steps": 2}, "optimizer": {"learning_rate": 0.05}}
    rates = {"text_encoders": {"learning_rate_1": 0.05, "learning_rate_2": 0.05}}
    outcome, events = train({**samples, **schedule, **rates})
    tensors = load_file(outcome.lora)
    layers = verify_lora(outcome.lora, open_checkpoint(tiny_checkpoint))
    assert layers == 4 * 12 + 2 * 3 * 6
    stems = {k.partition(".")[0] for k in tensors}
    assert "lora_te1_text_model_encoder_layers_0_self_attn_q_proj" in stems
    assert "lora_te2_text_model_encoder_layers_2_mlp_fc2" in stems
    metadata = next(iter(_metadata(outcome.lora)))
    assert metadata["ss_text_encoder_lr"] == "[0.05, 0.05]"
    sample = next(e for e in events if e["event"] == "sample")
    plain, _ = train({**samples, "schedule": {"steps": 2}})
    other = next((plain.lora.parent / "samples").glob("base-*.png"))
    with open(sample["base"], "rb") as mine, open(other, "rb") as theirs:
        assert mine.read() == theirs.read()  # without the LoRA the encoders are as they were


def _metadata(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        yield file.metadata()
