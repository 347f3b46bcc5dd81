"""Every kind of adapter: its file does in ComfyUI's own loader what was trained in diffusers."""

import copy
import importlib
from types import SimpleNamespace

import pytest
import torch

from tests.parity import tiny
from tools.inprocess import load_pack
from tools.server import ROOT
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
    """The oracle with the job's adapter, as if it were trained."""
    unet = copy.deepcopy(base.oracle)
    adapter = add_adapter(unet, job)
    disturb(adapter)
    return unet.eval(), adapter


def disturb(adapter, size=0.06):
    """Random numbers in place of training."""
    with torch.no_grad():
        for i, plan in enumerate(adapter.plans):
            random = torch.Generator().manual_seed(i)
            for name, tensor in adapter.kind.tensors(adapter.layer(plan)).items():
                if name not in FROZEN:
                    noise = torch.randn(tensor.shape, generator=random)
                    tensor += noise * (5 * size * tensor.mean() if name == "magnitude" else size)


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
    "lora": {"rank": 4, "alpha": 2.0, "targets": "all"},
    "rslora": {"kind": "rslora", "rank": 5, "alpha": 3.0},
    "dora": {"kind": "dora", "rank": 4, "alpha": 2.0, "targets": "all"},
    "pissa": {"kind": "pissa", "rank": 4, "alpha": 2.0, "targets": "all"},
    "loha": {"kind": "loha", "rank": 4, "alpha": 2.0, "targets": "all"},
    "lokr": {"kind": "lokr", "rank": 3, "alpha": 2.0, "targets": "all"},
    "oft": {"kind": "oft", "rank": 8, "targets": "all"},
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


@pytest.fixture(scope="module")
def nano_in_comfy(comfy, nano):
    load_pack(ROOT / "demo" / "companion")
    from comfy.sd import load_checkpoint_guess_config

    model, clip, _, _ = load_checkpoint_guess_config(str(nano.checkpoint))
    for part in (clip.cond_stage_model.clip_l, clip.cond_stage_model.clip_g):
        part.float()
    return SimpleNamespace(model=model, clip=clip, path=nano.checkpoint)


@pytest.mark.parametrize(
    ("kind", "rates"),
    [("lora", (1e-5, 1e-4)), ("dora", (1e-5, 1e-4)), ("lokr", (1e-5, 0)), ("oft", (0, 1e-5))],
)
def test_trained_text_encoders_read_as_comfyui_s(
    nano_in_comfy, comfy, tmp_path, caplog, kind, rates
):
    from comfy.sd import load_lora_for_models
    from comfy.utils import load_torch_file

    from training.checkpoint import load_unet
    from training.text import TextEncoding

    checkpoint = open_checkpoint(nano_in_comfy.path)
    folder = str(comfy.path / "comfy" / "sd1_tokenizer")
    job = parse_job(
        {
            "base": {"checkpoint": "-"},
            "dataset": {"folder": "-"},
            "adapter": {"kind": kind, "rank": 4, "layers": ["mid_block.attentions.0.proj_in"]},
            "text_encoders": {"learning_rate_1": rates[0], "learning_rate_2": rates[1]},
            "saving": {"precision": "fp32"},
        }
    )
    encoder = TextEncoding(checkpoint, folder, torch.float32)
    adapter = add_adapter(load_unet(checkpoint), job, encoder.models)
    groups = {g["factor"] for g in adapter.groups()}
    assert groups == {1.0, *(r / job.optimizer.learning_rate for r in rates if r)}
    caption = "a photo of zoe, red dress"
    before = encoder.encode([caption])
    disturb(adapter, 0.1)
    path = tmp_path / "lora.safetensors"
    write_lora(path, lora_tensors(adapter.state(), job, checkpoint), {}, checkpoint)
    tensors = load_torch_file(str(path), safe_load=True)
    prefixes = {k.split("_")[1] for k in tensors}
    assert prefixes == {"unet", *(f"te{i + 1}" for i, rate in enumerate(rates) if rate)}
    _, clip = load_lora_for_models(nano_in_comfy.model, nano_in_comfy.clip, tensors, 1, 1)
    assert "not loaded" not in caplog.text and "ERROR" not in caplog.text
    with torch.inference_mode():
        theirs = clip.encode_from_tokens(clip.tokenize(caption), return_pooled=True)
    for ours, comfys, plain in zip(encoder.encode([caption]), theirs, before, strict=True):
        size = ours.abs().max()
        assert (ours - comfys).abs().max() <= LIMIT * size
        learned = rates[1] or ours.ndim == 3  # the pooled state is the second encoder's
        assert not learned or (ours - plain).abs().max() > 30 * LIMIT * size


@pytest.fixture
def apply_loras(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.runtime.loras")


def test_apply_loras_reads_what_diffusers_writes(base, apply_loras, tmp_path):
    """Dotted attention names and an alpha in the metadata, which core passes over."""
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin as Mixin
    from peft import LoraConfig, get_peft_model_state_dict

    unet = copy.deepcopy(base.oracle)
    config = LoraConfig(r=4, lora_alpha=2.0, target_modules=["to_q", "to_k", "ff.net.2"])
    unet.add_adapter(config)
    with torch.no_grad():
        for i, (name, value) in enumerate(unet.named_parameters()):
            if "lora_B" in name:
                value.normal_(std=0.3, generator=torch.Generator().manual_seed(i))
    Mixin.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=config.to_dict(),
    )
    (path,) = tmp_path.glob("*.safetensors")
    use = apply_loras.LoraUse("file", 1.0, 1.0, path=path)
    model, _, report = apply_loras.apply_loras(base.model, None, [use])
    assert "NOT loaded" not in report
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    call = tiny.sample(model, latent=latent, steps=1)[1][0]
    expected, plain = oracle_output(unet, call), oracle_output(base.oracle, call)
    size = expected.abs().max()
    assert (expected - call.output).abs().max() <= LIMIT * size
    assert (plain - call.output).abs().max() > 30 * LIMIT * size


@pytest.mark.parametrize("kind", KINDS)
def test_apply_loras_reads_every_kind(base, apply_loras, kind):
    """From the socket, at half strength, as core's own loader does."""
    import comfy.sd

    job = make_job(kind=kind, rank=3, layers=["mid_block", "conv_out"])
    _, adapter = trained(base, job)
    tensors = lora_tensors(adapter.state(), job, open_checkpoint(base.path))
    use = apply_loras.LoraUse.of(tensors, 0.5, 0.5, "lora")
    model, _, report = apply_loras.apply_loras(base.model, None, [use])
    assert f"{len(tensors)} of {len(tensors)} keys" in report
    core, _ = comfy.sd.load_lora_for_models(base.model, None, tensors, 0.5, 0)
    assert model.patches.keys() == core.patches.keys()
