"""The file: names of sd-scripts, metadata other tools read, and a check that finds every fault."""

import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from training import open_checkpoint, parse_job
from training.checkpoint import Checkpoint
from training.errors import ExportError
from training.export import lora_names, lora_tensors, verify_lora
from training.keys import unet_key_table
from training.layout import unet_config_from_keys


@pytest.fixture(scope="module")
def sdxl_checkpoint(sdxl_config, sdxl_unet, tmp_path_factory) -> Checkpoint:
    """Full SDXL without numbers: what its header would say."""
    weights = sdxl_unet.state_dict()
    shapes = {sgm: tuple(weights[k].shape) for sgm, k in unet_key_table(sdxl_config).items()}
    return Checkpoint(
        path=tmp_path_factory.mktemp("x") / "sdxl.safetensors",
        shapes={f"model.diffusion_model.{k}": v for k, v in shapes.items()},
        offsets={},
        metadata={},
        unet_config=unet_config_from_keys(shapes),
        prediction_type="epsilon",
        zero_terminal_snr=False,
    )


def test_names_of_full_sdxl_are_those_of_sd_scripts(sdxl_checkpoint, sdxl_unet):
    from training.adapter import target_modules

    names = lora_names(sdxl_checkpoint)
    targets = target_modules(sdxl_unet, "transformer")
    written = {names[t] for t in targets}
    assert len(written) == 722
    for known in (
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        "lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_0_proj",
        "lora_unet_middle_block_1_transformer_blocks_9_attn2_to_out_0",
        "lora_unet_output_blocks_0_1_proj_in",
        "lora_unet_output_blocks_5_1_transformer_blocks_1_ff_net_2",
    ):
        assert known in written
    assert not any("input_blocks_1_" in n or "output_blocks_6_" in n for n in written)


def test_the_file_holds_the_trained_numbers_and_true_alpha(train, tiny_checkpoint):
    outcome, _ = train({"saving": {"precision": "fp32"}})
    checkpoint = open_checkpoint(tiny_checkpoint)
    tensors = load_file(outcome.lora)
    layers = verify_lora(outcome.lora, checkpoint)
    assert layers == len(tensors) / 3 == 4 * 12
    state = load_file(next((outcome.lora.parent / "states").glob("*.safetensors")))
    for layer, stem in lora_names(checkpoint).items():
        if f"adapter/{layer}.down" in state:
            assert torch.equal(tensors[f"{stem}.lora_down.weight"], state[f"adapter/{layer}.down"])
            assert torch.equal(tensors[f"{stem}.lora_up.weight"], state[f"adapter/{layer}.up"])
            assert tensors[f"{stem}.alpha"] == 2.0


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precisions(train, precision):
    outcome, _ = train({"saving": {"precision": precision}})
    kinds = {t.dtype for t in load_file(outcome.lora).values()}
    assert kinds == {{"fp16": torch.float16, "bf16": torch.bfloat16}[precision]}


def test_metadata_is_what_other_tools_read(train, tmp_path):
    target = tmp_path / "out" / "my lora.safetensors"
    changes = {
        "metadata": {"author": "me", "license": "CC0", "description": "a test"},
        "saving": {"output": str(target)},
    }
    outcome, _ = train(changes)
    assert outcome.lora == target
    with safe_open(target, "pt") as file:
        metadata = file.metadata()
    assert all(isinstance(v, str) for v in metadata.values())
    expected = {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "2.0",
        "ss_output_name": "tiny",
        "ss_num_train_images": "5",
        "ss_steps": "4",
        "ss_seed": "7",
        "ss_resolution": "(64, 64)",
        "ss_optimizer": "torch.optim.adamw.AdamW",
        "ss_sd_model_name": "tiny_sdxl.safetensors",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.title": "tiny",
        "modelspec.resolution": "64x64",
        "modelspec.prediction_type": "epsilon",
        "modelspec.trigger_phrase": "zoe",
        "modelspec.author": "me",
        "modelspec.license": "CC0",
        "modelspec.description": "a test",
    }
    assert {k: metadata.get(k) for k in expected} == expected
    tags = json.loads(metadata["ss_tag_frequency"])
    assert next(iter(tags.values()))["zoe"] == 5
    buckets = json.loads(metadata["ss_bucket_info"])["buckets"]
    assert sum(b["count"] for b in buckets.values()) == 5
    (dataset,) = json.loads(metadata["ss_datasets"])
    assert dataset["tag_frequency"] == tags and dataset["num_train_images"] == 5
    assert [s["img_count"] for s in dataset["subsets"]] == [5]
    data = target.read_bytes()
    content = data[8 + int.from_bytes(data[:8], "little") :]
    assert metadata["sshs_model_hash"] == hashlib.sha256(content).hexdigest()
    assert metadata["modelspec.hash_sha256"] == "0x" + metadata["sshs_model_hash"]
    assert str(tmp_path) not in json.dumps(metadata)  # nobody's folders are published


def make_job(precision):
    base = {"base": {"checkpoint": "-"}, "dataset": {"folder": "-"}}
    return parse_job(base | {"adapter": {"rank": 4}, "saving": {"precision": precision}})


def test_numbers_that_do_not_fit_the_format_are_refused(tiny_checkpoint):
    checkpoint = open_checkpoint(tiny_checkpoint)
    layer = "mid_block.attentions.0.proj_in"
    for value, message in ((1e6, "overflows in fp16"), (float("nan"), "is not finite")):
        state = {f"{layer}.down": torch.full((4, 64), value), f"{layer}.up": torch.ones(64, 4)}
        with pytest.raises(ExportError, match=f"{layer} {message}"):
            lora_tensors(state, make_job("fp16"), checkpoint)
    state[f"{layer}.down"].fill_(1e6)
    assert lora_tensors(state, make_job("bf16"), checkpoint)


def test_every_fault_in_a_file_is_found(train, tiny_checkpoint, tmp_path):
    checkpoint = open_checkpoint(tiny_checkpoint)
    good = load_file(train()[0].lora)
    stem = next(iter(good)).partition(".")[0]
    down, up, alpha = (f"{stem}.{p}" for p in ("lora_down.weight", "lora_up.weight", "alpha"))
    path = tmp_path / "lora.safetensors"
    faults = {
        "belongs to no layer": good | {"lora_unet_down_blocks_9.alpha": torch.ones(())},
        "has the parts": {k: v for k, v in good.items() if k != alpha},
        "has shapes": good | {down: good[down][:, :-1].contiguous()},
        "not finite": good | {up: torch.full_like(good[up], torch.inf)},
        "instead of": {k: v for k, v in good.items() if k not in (down, up, alpha)},
    }
    for message, tensors in faults.items():
        save_file(tensors, path)
        with pytest.raises(ExportError, match=message):
            verify_lora(path, checkpoint, layers=len(good) // 3)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ExportError, match="cannot be read back"):
        verify_lora(path, checkpoint)


def test_success_is_not_reported_without_a_good_file(train, monkeypatch, job_values):
    from pathlib import Path

    def forgets(*args):
        tensors = lora_tensors(*args)
        del tensors[next(k for k in tensors if "lora_up" in k)]
        return tensors

    monkeypatch.setattr("training.run.lora_tensors", forgets)
    with pytest.raises(ExportError):
        train()
    assert not list(Path(job_values["folders"]["runs"]).rglob("lora*.safetensors"))
