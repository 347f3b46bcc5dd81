"""Every kind of adapter: its file does in ComfyUI's own loader what was trained in diffusers."""

import copy
from types import SimpleNamespace

import pytest
import torch

from tests.parity import tiny
from training import open_checkpoint, parse_job
from training.adapter import add_adapter
from training.export import lora_tensors, write_lora
from training.keys import PREFIXES, unet_module_table
from training.kinds import FROZEN, KINDS

LIMIT = 1e-4  # of the output's size


@pytest.fixture(scope="module")
def base(tiny_sdxl, tmp_path_factory):
    """The tiny SDXL as a checkpoint, and one call of ComfyUI's UNet without any adapter."""
    from safetensors.torch import save_file

    weights = tiny_sdxl.oracle.state_dict()
    table = unet_module_table(dict(tiny_sdxl.oracle.config))
    state = {
        f"{PREFIXES['unet']}{sgm}.{kind}": weights[f"{ours}.{kind}"].clone()
        for sgm, ours in table.items()
        for kind in ("weight", "bias")
        if f"{ours}.{kind}" in weights
    }
    path = tmp_path_factory.mktemp("kinds") / "tiny.safetensors"
    save_file(state, path)
    return SimpleNamespace(oracle=tiny_sdxl.oracle, model=tiny_sdxl.model, path=path)


def make_job(**adapter):
    return parse_job(
        {
            "base": {"checkpoint": "-"},
            "dataset": {"folder": "-"},
            "adapter": adapter,
            "saving": {"precision": "fp32"},
        }
    )


def trained(base, job):
    """The oracle with the job's adapter and random numbers in place of training."""
    unet = copy.deepcopy(base.oracle)
    adapter = add_adapter(unet, job)
    with torch.no_grad():
        for i, plan in enumerate(adapter.plans):
            random = torch.Generator().manual_seed(i)
            for name, tensor in adapter.kind.tensors(adapter.layer(plan)).items():
                if name not in FROZEN:
                    noise = torch.randn(tensor.shape, generator=random)
                    tensor += noise * (0.3 * tensor.mean() if name == "magnitude" else 0.06)
    return unet.eval(), adapter


def comfy_calls(base, tensors, weight=1.0):
    import comfy.sd

    model, _ = comfy.sd.load_lora_for_models(base.model, None, tensors, weight, 0)
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    return tiny.sample(model, latent=latent, steps=1)[1]


def oracle_output(unet, call):
    with torch.no_grad():
        return unet(
            call.x,
            call.timesteps,
            encoder_hidden_states=call.context,
            added_cond_kwargs={"vector": call.vector},
        ).sample


CASES = {
    **{kind: {"kind": kind, "rank": 4, "targets": "all"} for kind in KINDS},
    "lora with alpha": {"rank": 8, "alpha": 2.0, "targets": "attention"},
    "rslora with alpha": {"kind": "rslora", "rank": 5, "alpha": 3.0},
    "pissa with alpha": {"kind": "pissa", "rank": 4, "alpha": 2.0, "layers": ["mid_block"]},
    "loha with alpha": {"kind": "loha", "rank": 4, "alpha": 1.0, "targets": "all"},
    "lokr with alpha": {"kind": "lokr", "rank": 3, "alpha": 1.0, "targets": "all"},
    "whole lokr": {"kind": "lokr", "rank": 64, "alpha": 16.0, "factor": 4, "targets": "all"},
    "block ranks": {"rank": 4, "block_ranks": {"mid_block": 8, "up_blocks.1": 0}, "alpha": 4.0},
    "lokr block ranks": {"kind": "lokr", "rank": 2, "alpha": 2.0, "block_ranks": {"attn2": 99}},
    "every layer": {"rank": 2, "layers": ["*"]},
}


@pytest.mark.parametrize("case", CASES)
def test_comfyui_computes_what_was_trained(base, case, tmp_path, caplog):
    import comfy.utils

    job = make_job(**CASES[case])
    unet, adapter = trained(base, job)
    checkpoint = open_checkpoint(base.path)
    path = tmp_path / "lora.safetensors"
    write_lora(path, lora_tensors(adapter.state(), job, checkpoint), {}, checkpoint)
    tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
    call = comfy_calls(base, tensors)[0]
    assert "not loaded" not in caplog.text and "ERROR" not in caplog.text
    expected, plain = oracle_output(unet, call), oracle_output(base.oracle, call)
    size = expected.abs().max()
    assert (expected - call.output).abs().max() <= LIMIT * size
    assert (plain - call.output).abs().max() > 30 * LIMIT * size  # it does something
    adapter.enable(False)
    assert torch.equal(oracle_output(unet, call), plain)
