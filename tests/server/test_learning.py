"""Objective, optimizer and validation from the node to the file that a real ComfyUI leaves."""

import json

import pytest
from safetensors import safe_open

from tests.server.test_training import CHECKPOINT, SIZE, node, write_dataset
from tools.client import ExecutionError


@pytest.fixture(scope="module", autouse=True)
def photos(server) -> None:
    write_dataset(server.input_dir / "learning_photos")


def training(yaml: str = "", **options) -> dict:
    return {
        "data": node("TroupeLoadDataset", folder="learning_photos", trigger="zoe"),
        "yaml": node("TroupeTrainingOptions", yaml=yaml or "samples: {at_end: false}"),
        "learning": node("TroupeLearningOptions", options=["yaml", 0], **options),
        "train": node(
            "TroupeTrainLora",
            checkpoint=CHECKPOINT,
            dataset=["data", 0],
            preset="try out",
            steps=4,
            rank=2,
            resolution=SIZE,
            filename_prefix="learning/zoe",
            options=["learning", 0],
        ),
    }


def test_the_node_decides_what_is_learned_and_how_it_is_judged(server):
    graph = training(
        optimizer_kind="prodigy",
        optimizer_ema_decay=0.9,
        objective_noise_offset=0.05,
        validation_share=0.3,
        validation_every_steps=2,
        validation_use_best=True,
    )
    shown = server.client.run(graph, timeout=300)["train"]
    assert "validation loss" in shown["text"][0]
    (path,) = (server.output_dir / "loras" / "learning").glob("zoe*.safetensors")
    with safe_open(path, "pt") as file:
        about = file.metadata()
    assert about["ss_optimizer"] == "Prodigy" and about["ss_noise_offset"] == "0.05"
    assert about["ss_min_snr_gamma"] == "5.0"  # of the preset
    assert about["ss_num_validation_images"] == "1" and float(about["troupe.validation_loss"]) > 0
    job = json.loads(about["troupe.job"])
    assert job["optimizer"]["ema_decay"] == 0.9 and job["validation"]["use_best"]
    path.unlink()


@pytest.mark.parametrize(
    "yaml, message",
    [
        ("optimizer: {kind: other, name: 'os:system'}", "optimizer.*library:Name"),
        ("optimizer: {kind: other, name: 'torch.optim:LBFGS'}", "LBFGS cannot train here"),
        ("validation: {folder: /etc}", "validation.folder"),
    ],
)
def test_what_a_workflow_may_not_ask_for_is_refused(server, yaml, message):
    with pytest.raises(ExecutionError, match=message):
        server.client.run(training(yaml), timeout=120)
