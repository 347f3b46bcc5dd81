"""Another kind of adapter with trained text encoders, from the node to the picture."""

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.server.test_training import (
    CHECKPOINT,
    SIZE,
    node,
    picture_graph,
    pixels,
    write_dataset,
)
from tools.client import ExecutionError


@pytest.fixture(scope="module", autouse=True)
def adapter_photos(server) -> None:
    write_dataset(server.input_dir / "adapter_photos")


def training(**options) -> dict:
    return {
        "data": node("TroupeLoadDataset", folder="adapter_photos", trigger="zoe"),
        "adapter": node("TroupeAdapterOptions", **options),
        "train": node(
            "TroupeTrainLora",
            checkpoint=CHECKPOINT,
            dataset=["data", 0],
            preset="try out",
            steps=6,
            rank=4,
            learning_rate=0.02,
            resolution=SIZE,
            filename_prefix="kinds/zoe",
            options=["adapter", 0],
        ),
    }


def picture(server, graph: dict, model: list, clip: list) -> np.ndarray:
    graph = picture_graph(graph, model, clip)
    return pixels(server, server.client.run(graph, timeout=300)["save"])


def test_a_kind_is_trained_and_applied(server):
    base = {"base": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)}
    graph = training(
        adapter_kind="lokr",
        adapter_targets="all",
        adapter_block_ranks="mid_block: 2",
        text_encoders_learning_rate_1=0.02,
        text_encoders_learning_rate_2=0.02,
    )
    apply = node(
        "TroupeApplyLoras",
        model=["base", 0],
        clip=["base", 1],
        files="",
        weights="1.0",
        **{"loras.lora0": ["train", 0]},
    )
    with_lora = picture(server, base | graph | {"apply": apply}, ["apply", 0], ["apply", 1])
    plain = picture(server, base, ["base", 0], ["base", 1])
    assert np.abs(with_lora - plain).max() > 8
    path = next((server.output_dir / "loras" / "kinds").glob("zoe*.safetensors"))
    keys = load_file(path)
    assert any(k.startswith("lora_te1_") and ".lokr_w1" in k for k in keys)
    assert any(k.startswith("lora_te2_") for k in keys)
    named = node("TroupeApplyLoras", model=["base", 0], clip=["base", 1], weights="1.0")
    named["inputs"]["files"] = f"kinds/{path.name}: 1.0"
    report = server.client.run(
        base | {"apply": named, "show": node("PreviewAny", source=["apply", 2])}, timeout=120
    )["show"]
    assert f"{len(keys)} of {len(keys)} keys" in str(report)


def test_a_block_that_is_not_there_is_named(server):
    with pytest.raises(ExecutionError, match="'up_blocks.7' matches no trained layer"):
        server.client.run(training(adapter_layers="up_blocks.7"), timeout=120)
    with pytest.raises(ExecutionError, match="adapter.block_ranks"):
        server.client.run(training(adapter_block_ranks="mid_block"), timeout=60)
