"""Names and options given to the training nodes never lead out of ComfyUI's folders."""

import importlib
import os

import pytest
import torch
from safetensors.torch import save_file

from tests.systems import needs_links

ASTRAY = ["../x", "a/../../x", "/etc/passwd", "\\\\host\\x", "C:/x", "a\0b", "", "   ", "a/.."]


@pytest.fixture
def nodes(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.training")


@pytest.fixture
def loras(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.runtime.loras")


@pytest.mark.parametrize("name", ASTRAY)
def test_the_lora_is_written_below_output_loras(nodes, sandbox, name):
    said = nodes.TroupeTrainLora.validate_inputs(filename_prefix=name)
    assert said is not True and "filename_prefix" in said
    with pytest.raises(ValueError, match="filename_prefix"):
        nodes.TroupeTrainLora.execute("x.safetensors", None, "character", filename_prefix=name)
    assert not list(sandbox.output.rglob("*.safetensors"))


@needs_links
def test_a_link_out_of_output_loras_is_not_followed(nodes, sandbox):
    (sandbox.output / "loras").mkdir()
    os.symlink(sandbox.outside, sandbox.output / "loras" / "linked")
    said = nodes.TroupeTrainLora.validate_inputs(filename_prefix="linked/zoe")
    assert said is not True and "leads outside" in said
    assert nodes.TroupeTrainLora.validate_inputs(filename_prefix="cast/zoe") is True
    assert nodes.TroupeTrainLora.validate_inputs(filename_prefix=None) is True  # linked input


@pytest.mark.parametrize("name", [*ASTRAY, "../outside/secret.txt", "gone.safetensors", "sub"])
def test_only_listed_loras_are_read(loras, sandbox, name):
    (sandbox.models / "loras" / "sub").mkdir()
    (sandbox.models / "loras" / "notes.txt").write_text("no LoRA", "utf-8")
    save_file({"a": torch.ones(1)}, sandbox.outside / "x.safetensors")
    for wanted in (name, "notes.txt"):
        with pytest.raises(ValueError, match="LoRA"):
            loras.LoraUse.of(wanted, 1.0, 1.0, label="LoRA 1")
    if name.strip() and "\0" not in name:
        with pytest.raises(ValueError):
            loras.parse_stack(f"{name}: 1.0")


@needs_links
def test_shared_folders_are_followed_as_core_does(loras, sandbox):
    save_file({"a": torch.ones(1)}, sandbox.outside / "zoe.safetensors")
    os.symlink(sandbox.outside, sandbox.models / "loras" / "shared")
    use = loras.LoraUse.of("shared/zoe.safetensors", 1.0, 1.0, label="")
    assert use.load()[0].keys() == {"a"}
    (stacked,) = loras.parse_stack("# cast\n\n shared/zoe.safetensors : 0.5/0.25 \n")
    assert (stacked.model_weight, stacked.clip_weight) == (0.5, 0.25)


@pytest.mark.parametrize(
    "text",
    [
        "folders: {runs: /tmp}",
        "folders: {cache: ../..}",
        "base: {checkpoint: /etc/passwd}",
        "base: {tokenizer: /etc}",
        "dataset: {folder: /etc}",
        "dataset: {items: []}",
        "saving: {output: /tmp/x.safetensors}",
        "name: ../../x",
        "preset: style",
        "memory: {device: cpu}",
        "version: 1",
    ],
)
def test_options_cannot_name_places(nodes, text):
    with pytest.raises(ValueError, match="cannot set"):
        nodes.TroupeTrainingOptions.execute(yaml=text)


def test_options_run_no_code(nodes, sandbox):
    marker = sandbox.root / "ran"
    with pytest.raises(ValueError, match="YAML"):
        nodes.TroupeTrainingOptions.execute(
            yaml=f"!!python/object/apply:os.system ['touch {marker}']"
        )
    assert not marker.exists()


def test_options_leave_the_preset_alone_until_they_are_set(nodes):
    (values,) = nodes.TroupeTrainingOptions.execute().args
    assert "alpha" not in values["adapter"]
    assert not {"kind", "warmup"} & values.get("schedule", {}).keys()
    text = "schedule: {kind: constant}\nsamples: {guidance: 3}"
    (values,) = nodes.TroupeTrainingOptions.execute(schedule_kind="cosine", yaml=text).args
    assert values["schedule"]["kind"] == "constant" and values["samples"]["guidance"] == 3
