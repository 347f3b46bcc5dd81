"""The second file: diffusers' own loader and PEFT do with it what was trained."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from training import merge, open_checkpoint, parse_job
from training.adapter import add_adapter
from training.checkpoint import load_unet
from training.diffusers_file import write_diffusers
from training.plan import make_plan
from training.text import TextEncoding

from .test_adapter import unet_inputs
from .test_kinds import disturb


@pytest.fixture
def trained(job_values):
    """trained(adapter, text) -> (plan, adapter, text encoding) as if they were trained."""

    def make(adapter: dict, text: dict | None = None):
        values = merge(job_values, {"adapter": adapter, "text_encoders": text or {}})
        values = merge(values, {"saving": {"precision": "fp32", "diffusers_rank": 16}})
        plan = make_plan(parse_job(values))
        encoding = TextEncoding(plan.checkpoint, plan.job.base.tokenizer)
        made = add_adapter(load_unet(plan.checkpoint), plan.job, encoding.models)
        disturb(made)
        return plan, made, encoding

    return make


def pipeline(checkpoint):
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    from training.checkpoint import load_text_encoders, load_vae

    text_l, text_g = load_text_encoders(checkpoint)
    return StableDiffusionXLPipeline(
        vae=load_vae(checkpoint).module,
        text_encoder=text_l,
        text_encoder_2=text_g,
        tokenizer=None,
        tokenizer_2=None,
        unet=load_unet(checkpoint),
        scheduler=EulerDiscreteScheduler(),
    )


@pytest.mark.parametrize(
    "adapter",
    [
        {"kind": "lora", "rank": 4, "alpha": 2.0, "targets": "all"},
        {"kind": "rslora", "rank": 4, "alpha": 3.0, "block_ranks": {"mid_block": 2}},
        {"kind": "pissa", "rank": 4, "alpha": 2.0},
    ],
    ids=lambda a: a["kind"],
)
def test_load_lora_weights_does_what_was_trained(trained, adapter, tmp_path, tiny_checkpoint):
    rates = {"learning_rate_1": 1e-4, "learning_rate_2": 1e-4}
    plan, made, encoding = trained(adapter, rates)
    path = tmp_path / "lora.safetensors"
    assert write_diffusers(path, made.state(), plan, {}) == 1.0
    pipe = pipeline(open_checkpoint(tiny_checkpoint))
    pipe.load_lora_weights(str(tmp_path), weight_name=path.name)
    ids_l, ids_g, _ = encoding.chunks("a picture", 75)
    with torch.no_grad():
        plain = load_unet(plan.checkpoint)(**unet_inputs()).sample
        expected, got = made.unet(**unet_inputs()).sample, pipe.unet(**unet_inputs()).sample
        assert (expected - got).abs().max() <= 1e-5 * expected.abs().max()
        assert (expected - plain).abs().max() > 1e-3
        for model, theirs, ids in (
            (encoding.models[0], pipe.text_encoder, ids_l),
            (encoding.models[1], pipe.text_encoder_2, ids_g),
        ):
            a, b = (m(ids, output_hidden_states=True).hidden_states[-2] for m in (model, theirs))
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr", "oft"])
def test_other_kinds_are_baked_and_it_is_said(trained, kind, tmp_path, tiny_checkpoint):
    """The whole rank is the whole change; a smaller one is the best there is, and named."""
    plan, made, _ = trained({"kind": kind, "rank": 4, "alpha": None})
    shares = []
    with torch.no_grad():
        expected = made.unet(**unet_inputs()).sample
        plain = load_unet(plan.checkpoint)(**unet_inputs()).sample
    for rank in (512, 8):
        saving = plan.job.saving.model_copy(update={"diffusers_rank": rank})
        object.__setattr__(plan, "job", plan.job.model_copy(update={"saving": saving}))
        folder = tmp_path / str(rank)
        path = folder / "lora.safetensors"
        folder.mkdir()
        shares.append(write_diffusers(path, made.state(), plan, {}))
        with safe_open(path, "pt") as file:
            assert f"{kind} as LoRA of rank {rank}" in file.metadata()["troupe.baked"]
        pipe = pipeline(open_checkpoint(tiny_checkpoint))
        pipe.load_lora_weights(str(folder), weight_name=path.name)
        with torch.no_grad():
            error = (pipe.unet(**unet_inputs()).sample - expected).abs().max()
        if rank == 512:
            assert error <= 1e-4 * expected.abs().max()
        else:
            assert error < (plain - expected).abs().max()
    assert shares[0] > 0.999999 and 0.2 < shares[1] < 1


def test_a_run_writes_it_beside_the_lora(train):
    outcome, events = train({"saving": {"diffusers": True}, "adapter": {"kind": "lokr"}})
    path = events[-1]["diffusers"]
    assert path == str(outcome.lora.parent / "lora_diffusers.safetensors")
    tensors = load_file(path)
    assert all(k.startswith("unet.") and ".lora_" in k for k in tensors)


def test_the_file_shows_its_newest_sample(train):
    import base64
    import io

    from PIL import Image

    samples = {"at_end": True, "steps": 1, "prompts": ["a picture"], "width": 320, "height": 64}
    for thumbnail in (True, False):
        outcome, _ = train({"samples": samples, "saving": {"thumbnail": thumbnail}})
        with safe_open(outcome.lora, "pt") as file:
            metadata = file.metadata()
        assert ("modelspec.thumbnail" in metadata) is thumbnail
        if thumbnail:
            kind, _, data = metadata["modelspec.thumbnail"].partition(";base64,")
            picture = Image.open(io.BytesIO(base64.b64decode(data)))
            assert kind == "data:image/jpeg" and picture.size == (256, 51)
            assert len(data) < 30_000
    assert len(metadata["troupe.dataset_digest"]) == 64
    arguments = json.loads(metadata["ss_network_args"])
    assert arguments == {}
