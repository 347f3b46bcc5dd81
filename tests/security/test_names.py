"""Names in prompts: only such as every system can write; slashes of either kind are read."""

import importlib

import pytest
import torch
from safetensors.torch import save_file

BAD = ["Zoe: portrait", "a?", "cast/CON/zoe", "nul.x", "zoe.", "cast \\zoe", "zoe..mp4", "n" * 300]
POSE = [{"people": [], "canvas_width": 64, "canvas_height": 64}]


@pytest.fixture
def part(pack):
    return lambda name: importlib.import_module(f"{pack.__name__}.nodes.{name}")


@pytest.mark.parametrize("name", BAD)
def test_savers_refuse_them_before_anything_runs(part, sandbox, name):
    saver = {"training": "TrainLora", "pose": "SavePose", "video": "SaveVideo"}
    for module, kind in saver.items():
        said = getattr(part(module), f"Troupe{kind}").validate_inputs(filename_prefix=name)
        assert said is not True and "filename_prefix" in said and "Choose another" in said
    with pytest.raises(ValueError, match="filename_prefix"):  # linked: known when it runs
        part("pose").TroupeSavePose.execute(pose=POSE, filename_prefix=name)
    with pytest.raises(ValueError, match="filename_prefix"):
        part("training").TroupeTrainLora.execute("x", None, "character", filename_prefix=name)
    assert not list(sandbox.output.iterdir())


@pytest.mark.parametrize("name", ["(CON", "zoe .", ".", "\u65e5\u672c", "a" * 150])
def test_any_name_of_a_lora_makes_a_run_s_name(part, name):
    from training import parse_job

    made = part("training")._run_name(name)
    parse_job({"name": made, "base": {"checkpoint": "x"}, "dataset": {"folder": "y"}})
    assert not part("training").unwritable(f"{made}.log")


def test_names_typed_on_windows_are_read(part, sandbox):
    for folder in (sandbox.input / "cast" / "zoe", sandbox.models / "loras" / "cast"):
        folder.mkdir(parents=True)
    (sandbox.input / "cast" / "zoe" / "1.json").write_text("[]")
    odd = sandbox.input / "odd\\name.json"  # a name that Linux allows is found as it is
    odd.write_text("[]")
    lora = sandbox.models / "loras" / "cast" / "Zoe.safetensors"
    save_file({"a": torch.ones(1)}, lora)
    assert part("pose").TroupeLoadPose.validate_inputs(pose_file="cast\\zoe\\1.json") is True
    assert part("pose").TroupeLoadPose.validate_inputs(pose_file="odd\\name.json") is True
    assert part("dataset").TroupeLoadDataset.validate_inputs(folder="cast\\zoe") is True
    assert part("video").TroupeLoadFrames.validate_inputs(folder="cast\\zoe\\") is True
    loras = part("runtime.loras")
    for name in ("cast\\Zoe.safetensors", "cast/Zoe.safetensors", "cast\\zoe.SAFETENSORS"):
        assert loras.LoraUse.of(name, 1.0, 1.0, label="").path == lora
    save_file({"b": torch.ones(1)}, lora.with_name("zoe.safetensors"))
    assert loras.LoraUse.of("cast\\zoe.safetensors", 1.0, 1.0, label="").path.name.startswith("z")
    with pytest.raises(ValueError, match="was not found"):  # which of the two is meant?
        loras.LoraUse.of("cast/ZOE.safetensors", 1.0, 1.0, label="")


def test_slashes_are_what_is_written(part, sandbox):
    part("pose").TroupeSavePose.execute(pose=POSE, filename_prefix="cast\\zoe")
    assert (sandbox.output / "cast" / "zoe_00001_.json").is_file()
    file = sandbox.outside / "lora.safetensors"
    save_file({"a": torch.ones(1)}, file)
    root = sandbox.output / "loras"
    folder, stem, _, subfolder = part("runtime.paths").save_location("cast\\zoe", None, root)
    assert subfolder == "loras/cast"
    name = part("runtime.loras").keep_lora(file, folder, stem, root)
    assert name == "cast/zoe.safetensors" and (root / name).is_file()
