"""The archive as the registry has it, in a ComfyUI that has nothing else.

comfy-cli's `node pack` takes what git knows, less what .comfyignore names; so does this.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.build_workflows import QUICK
from tools.client import PromptError
from tools.server import ROOT, ComfyServer

FOLDER = "troupe"  # the registry's name for the pack, which Manager gives its folder
MODEL_NODES = {"CheckpointLoaderSimple", "ControlNetLoader", "CLIPVisionLoader"}
MODEL_NODES |= {"TroupeLoadIPAdapter", "TroupeTrainLora"}


def packed() -> list[str]:
    """The names of the files that are published."""

    def listed(*options: str) -> set[str]:
        command = ["git", "ls-files", "-z", *options]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
        return set(filter(None, done.stdout.decode().split("\0")))

    return sorted(listed() - listed("-c", "-i", "--exclude-from=.comfyignore"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / FOLDER
    for name in packed():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def fresh(installed, tmp_path_factory) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("fresh")
    with ComfyServer(base, cpu=True, pack=installed, folder=FOLDER, companion=False) as server:
        yield server


def prompt_of(installed: Path, name: str) -> dict:
    prompt = json.loads((installed / "workflows" / "api" / f"{name}.json").read_text("ascii"))
    for node in prompt.values():
        node["inputs"] |= QUICK.get(node["class_type"], {})
    return prompt


def test_it_holds_what_runs_and_no_more():
    names = packed()
    tops = {name.split("/")[0] for name in names}
    assert {"__init__.py", "nodes", "web", "locales", "workflows", "miniature", "headless"} <= tops
    assert not tops & {"tests", "tools", "demo", "bench", "docs", "run.py", ".ci"}
    # only top folders and files are meant
    assert {"training/run.py", "web/docs/TroupeTrainLora.md"} <= set(names)
    assert sum((ROOT / name).stat().st_size for name in names) < 40 * 2**20


def test_all_nodes_and_templates_are_there(fresh, installed):
    assert "IMPORT FAILED" not in fresh.log_text()
    info = fresh.client.object_info()
    locale = json.loads((installed / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))
    assert set(locale) == {name for name in info if name.startswith("Troupe")}
    listed = fresh.client.get_json("/workflow_templates")[FOLDER]
    assert sorted(listed) == sorted(f.stem for f in (installed / "workflows").glob("*.json"))


def test_the_miniature_film_runs_by_run_alone(fresh, installed):
    """No model, no input: what the workflow needs is in the pack. Nothing is left in models/."""
    prompt = prompt_of(installed, "miniature_film")
    outputs = fresh.client.run(prompt, timeout=900)
    (film,) = next(n for key, n in outputs.items()
                   if prompt[key]["class_type"] == "TroupeSaveVideo")["images"]  # fmt: skip
    assert (fresh.output_dir / film["subfolder"] / film["filename"]).stat().st_size > 10_000
    assert "lora key not loaded" not in fresh.log_text()
    assert not list(fresh.models_dir.rglob("*.safetensors"))


@pytest.mark.parametrize(
    "name", ["train_lora", "compose_scene", "pose_sequence_to_film", "full_pipeline"]
)
def test_the_others_lack_their_models_and_nothing_else(fresh, installed, name):
    shutil.copytree(installed / "workflows" / "input", fresh.input_dir, dirs_exist_ok=True)
    with pytest.raises(PromptError) as refused:
        fresh.client.queue(prompt_of(installed, name))
    faulty = {entry["class_type"] for entry in refused.value.node_errors.values()}
    assert faulty and faulty <= MODEL_NODES
