"""Training on a running ComfyUI: it learns, it shows, it stops, it goes on, it refuses."""

import io
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import skimage.data
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.server.processes import children_of, runs
from tools.client import ExecutionError, ExecutionInterrupted, PromptError
from tools.events import Events
from tools.server import ComfyServer

SIZE = 128
CHECKPOINT = "nano_sdxl.safetensors"


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def write_dataset(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("astronaut", "coffee", "rocket"):
        picture = Image.fromarray(getattr(skimage.data, name)())
        picture.resize((SIZE, SIZE)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a photo of {name}", "utf-8")


@pytest.fixture(scope="module", autouse=True)
def photos(server) -> str:
    write_dataset(server.input_dir / "photos")
    return "photos"


def training(yaml: str = "samples: {steps: 3}", folder: str = "photos", **inputs) -> dict:
    """A graph that trains for a few seconds."""
    inputs = {
        "checkpoint": CHECKPOINT,
        "dataset": ["data", 0],
        "preset": "try out",
        "steps": 10,
        "rank": 4,
        "resolution": SIZE,
        "options": ["options", 0],
        **inputs,
    }
    return {
        "data": node("TroupeLoadDataset", folder=folder, trigger="zoe"),
        "options": node("TroupeTrainingOptions", yaml=yaml),
        "train": node("TroupeTrainLora", **inputs),
    }


def picture_graph(
    loader: dict[str, dict], model: list, clip: list, text: str = "a photo of zoe"
) -> dict:
    sampling = {"steps": 4, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "seed": 1}
    return loader | {
        "text": node("CLIPTextEncode", clip=clip, text=text),
        "latent": node("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=1),
        "sample": node(
            "KSampler",
            model=model,
            positive=["text", 0],
            negative=["text", 0],
            latent_image=["latent", 0],
            denoise=1.0,
            **sampling,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["base", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="trained"),
    }


def pixels(server, shown: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(server.client.view(**shown["images"][0]))), np.int16)


def run_dirs(server) -> list[Path]:
    return sorted((server.output_dir / "troupe" / "runs").glob("*-*"), key=os.path.getmtime)


def run_events(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def graph() -> dict:
    """The whole of what the training node gives, looked at."""
    graph = training(
        sample_every=5,
        sample_prompts="a photo of zoe\nzoe in space",
        filename_prefix="cast/zoe",
        learning_rate=0.01,
    )
    return graph | {
        "plot": node("LossGraphNode", loss=["train", 2], filename_prefix="loss"),
        "shots": node("SaveImage", images=["train", 3], filename_prefix="shots"),
        "curve": node("SaveImage", images=["train", 4], filename_prefix="curve"),
    }


@pytest.fixture(scope="module")
def trained(server, graph) -> tuple[dict, list]:
    """(what the nodes showed, websocket events) of one training."""
    with Events(server.url) as events:
        prompt_id = server.client.queue(graph, client_id=events.client_id)
        return server.client.wait(prompt_id), events.seen()


def test_progress_and_samples_arrive_while_it_trains(trained):
    _, events = trained
    progress = [e.data for e in events if e.type == "progress" and e.data["node"] == "train"]
    assert {"value": 10, "max": 10}.items() <= progress[-1].items()
    values = [p["value"] for p in progress if p["max"] == 10]  # ComfyUI sends at most ten a second
    assert values == sorted(values) and values[0] < 10
    told = [e.data for e in events if e.type == "troupe.training"]
    assert {"preparing", "training", "sampling", "done"} <= {t["status"] for t in told}
    assert any(" pictures (" in t["text"] for t in told)
    assert told[-1]["figures"]["step"] == 10 and told[-1]["figures"]["average"] > 0
    assert [s["step"] for s in told[-1]["samples"]] == [10, 10, 5, 5]  # two prompts, twice


def test_outputs_are_what_core_s_nodes_take(server, trained):
    shown, _ = trained
    (file,) = shown["train"]["files"]
    assert file == {"filename": "zoe.safetensors", "subfolder": "loras/cast", "type": "output"}
    assert shown["train"]["text"][0].startswith("cast/zoe.safetensors: 10 steps, loss 0.")
    assert pixels(server, shown["plot"]).ndim == 3
    assert pixels(server, shown["shots"]).shape == (SIZE, 2 * SIZE, 3)
    assert len(shown["shots"]["images"]) == 2
    assert pixels(server, shown["curve"]).shape == (480, 960, 3)


def test_the_lora_loads_everywhere_with_the_same_effect(server, graph, trained):
    base = {"base": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)}
    listed = server.client.object_info("LoraLoader")["LoraLoader"]["input"]["required"]
    assert "cast/zoe.safetensors" in str(listed["lora_name"])

    def picture(apply: dict | None, clip: list, more: dict | None = None) -> np.ndarray:
        nodes = base | (more or {}) | ({"apply": apply} if apply else {})
        model = ["apply", 0] if apply else ["base", 0]
        return pixels(server, server.client.run(picture_graph(nodes, model, clip))["save"])

    models = {"model": ["base", 0], "clip": ["base", 1]}
    weights = {"strength_model": 1.0, "strength_clip": 1.0}
    plain = picture(None, ["base", 1])
    loader = node("LoraLoader", lora_name="cast/zoe.safetensors", **models, **weights)
    loaded = picture(loader, ["apply", 1])
    assert np.abs(plain - loaded).max() > 2
    ours = node("TroupeApplyLoras", weights="1.0", **models, **{"loras.lora0": ["train", 0]})
    assert (picture(ours, ["apply", 1], graph) == loaded).all()
    named = node("TroupeApplyLoras", weights="1.0", **models, **{"loras.lora0": ["train", 1]})
    assert (picture(named, ["apply", 1], graph) == loaded).all()
    core = node(
        "LoraModelLoader",
        model=["base", 0],
        lora=["train", 0],
        strength_model=1.0,
        bypass=False,
    )
    assert (picture(core, ["base", 1], graph) == loaded).all()
    log = server.log_text().lower()
    assert "not loaded" not in log


def test_the_same_prompt_is_not_trained_again(server, graph, trained):
    shown, _ = trained
    count = len(run_dirs(server))
    server.client.free()  # forget the cached result: the node runs again, the training does not
    again = server.client.run({k: graph[k] for k in ("data", "options", "train")})
    assert len(run_dirs(server)) == count
    assert again["train"]["files"] == shown["train"]["files"]
    assert "already trained" in again["train"]["text"][0]


def test_an_interrupt_saves_and_the_same_prompt_goes_on(server):
    graph = training(filename_prefix="interrupted", steps=60, seed=5)
    with Events(server.url) as events:
        prompt_id = server.client.queue(graph, client_id=events.client_id)
        events.wait_for(
            lambda e: (
                e.type == "progress"
                and (e.data["node"], e.data["max"]) == ("train", 60)
                and e.data["value"] >= 3
            )
        )
        server.client.interrupt(prompt_id)
        with pytest.raises(ExecutionInterrupted):
            server.client.wait(prompt_id)
    folder = run_dirs(server)[-1]
    stopped = run_events(folder)[-1]
    assert stopped["event"] == "stopped" and stopped["saved"] and 3 <= stopped["step"] < 60
    assert list((folder / "states").glob(f"state-*{stopped['step']}.safetensors"))
    assert not (folder / "lora.safetensors").exists()
    shown = server.client.run(graph)
    assert shown["train"]["text"][0].startswith("interrupted.safetensors: 60 steps")
    records = run_events(folder)
    plans = [e for e in records if e["event"] == "plan"]
    assert [p["resumed_from"] for p in plans] == [0, stopped["step"]]
    assert [e["step"] for e in records if e["event"] == "step"] == list(range(1, 61))


def refused(server, graph: dict, *words: str) -> None:
    """The prompt fails with a message that says what and what to do; the server goes on."""
    with pytest.raises((PromptError, ExecutionError)) as error:
        server.client.run(graph)
    said = "\n".join(error.value.messages()) if hasattr(error.value, "messages") else ""
    said += str(error.value)
    assert all(word in said for word in words), said


def test_bad_input_is_refused_and_the_next_prompt_runs(server, trained):
    checkpoints = server.models_dir / "checkpoints"
    whole = (checkpoints / CHECKPOINT).read_bytes()
    (checkpoints / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    tensors = load_file(checkpoints / CHECKPOINT)
    save_file(
        {k: v for k, v in tensors.items() if "label_emb" not in k},
        checkpoints / "old.safetensors",
    )
    hole = "model.diffusion_model.middle_block.0.in_layers.0.bias"
    del tensors[hole]
    save_file(tensors, checkpoints / "hole.safetensors")
    (server.input_dir / "nothing").mkdir(exist_ok=True)
    (server.input_dir / "nothing" / "readme.txt").write_text("no picture", "utf-8")

    refused(server, training(checkpoint="gone.safetensors"), "gone.safetensors")
    refused(server, training(checkpoint="cut.safetensors"), "cut.safetensors", "truncated")
    refused(server, training(checkpoint="old.safetensors"), "old.safetensors", "SDXL")
    refused(server, training(checkpoint="hole.safetensors"), "hole.safetensors", "lacks 1 tensors")
    refused(server, training(folder="nothing"), "nothing")
    refused(server, training(folder="../photos"), "..")
    refused(server, training(preset="magic"), "preset")
    refused(server, training(steps=-1), "steps")
    refused(server, training(filename_prefix="../../zoe"), "filename_prefix")
    refused(server, training(filename_prefix="/tmp/zoe"), "filename_prefix")
    refused(server, training(filename_prefix=""), "filename_prefix")
    refused(server, training("optimizer: {learning_rat: 1}"), "did you mean", "learning_rate")
    refused(server, training("adapter: {rank: 100000}"), "adapter.rank", "512")
    refused(server, training("a: [1"), "not valid YAML")
    for path in (
        "folders: {runs: /tmp/stolen}",
        "base: {checkpoint: /etc/passwd}",
        "dataset: {folder: /etc}",
        "saving: {output: /tmp/stolen.safetensors}",
        "name: ../x",
    ):
        refused(server, training(path), "cannot set")
    assert not Path("/tmp/stolen").exists() and not Path("/tmp/stolen.safetensors").exists()
    shown = server.client.run(training(filename_prefix="cast/zoe", steps=2))
    assert shown["train"]["files"][0]["filename"] == "zoe_00002.safetensors"  # none is overwritten


def applying(**inputs) -> dict:
    return {
        "base": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "apply": node("TroupeApplyLoras", model=["base", 0], **inputs),
        "show": node("PreviewAny", source=["apply", 2]),
    }


def test_no_lora_key_is_dropped_in_silence(server, trained):
    whole = "cast/zoe.safetensors"
    tensors = load_file(server.output_dir / "loras" / whole)
    text_layer = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    extra = {
        f"{text_layer}.lora_up.weight": torch.ones(128, 1),
        f"{text_layer}.lora_down.weight": torch.ones(1, 64),
    }
    folder = server.models_dir / "loras"
    folder.mkdir(exist_ok=True)
    save_file(tensors | extra, folder / "with_text.safetensors")
    save_file({"lora_unet_nowhere.alpha": torch.ones(())}, folder / "foreign.safetensors")
    (folder / "broken.safetensors").write_bytes(b"broken")
    half = dict(tensors)
    del half[next(k for k in half if "lora_down" in k)]
    save_file(half, folder / "half.safetensors")

    shown = server.client.run(applying(files=f"{whole}: 0.5/0.2\n# note\nwith_text.safetensors"))
    first, second = shown["apply"]["text"][0].splitlines()
    count = len(tensors)
    assert first == f"{whole}: weight 0.5/0.2, {count} of {count} keys"
    assert f"{count} of {count + 2} keys; NOT loaded: lora_te1" in second
    assert "connect clip" in second
    shown = server.client.run(applying(files="with_text.safetensors", clip=["base", 1]))
    assert "NOT loaded" not in shown["apply"]["text"][0]

    refused(server, applying(files="foreign.safetensors"), "foreign", "fits no layer")
    refused(server, applying(files="broken.safetensors"), "broken", "cannot be read")
    refused(server, applying(files="half.safetensors"), "half", "lacks", "lora_down")
    refused(server, applying(files="gone.safetensors"), "gone.safetensors", "not found")
    refused(server, applying(files="../whole.safetensors"), "..")
    refused(server, applying(files="/etc/passwd"), "/etc/passwd", "relative")
    refused(server, applying(files=f"{whole}: heavy"), "heavy", "no number")
    refused(server, applying(weights="1, 2"), "weights")
    server.client.run(applying())


def test_training_does_not_outlive_a_killed_comfyui(nano_models, tmp_path):
    shutil.copytree(nano_models, tmp_path / "models")
    write_dataset(tmp_path / "input" / "photos")
    with ComfyServer(tmp_path, cpu=True) as own:
        with Events(own.url) as events:
            own.client.queue(training(steps=5000), client_id=events.client_id)
            events.wait_for(
                lambda e: e.type == "progress" and e.data["max"] == 5000 and e.data["value"] >= 2
            )
            (child,) = children_of(own.pid)
            psutil.Process(own.pid).kill()
        deadline = time.monotonic() + 60
        while runs(child) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not runs(child)
        (folder,) = run_dirs(own)
        stopped = run_events(folder)[-1]
        assert stopped["event"] == "stopped" and stopped["saved"]
