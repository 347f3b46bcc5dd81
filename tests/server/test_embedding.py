"""A new word from the node to the prompt: trained, found by ComfyUI, used by its name."""

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

TEXT = "a photo of {} on a bench"


@pytest.fixture(scope="module", autouse=True)
def word_photos(server) -> None:
    write_dataset(server.input_dir / "word_photos")


def training(prefix: str, yaml: str = "", **options) -> dict:
    steps = "embedding: {learning_rate: 0.05, until: 1.0}\nsamples: {steps: 2}\n"
    return {
        "data": node("TroupeLoadDataset", folder="word_photos", trigger="zoe"),
        "options": node("TroupeTrainingOptions", yaml=yaml or steps),
        "adapter": node("TroupeAdapterOptions", options=["options", 0], **options),
        "train": node(
            "TroupeTrainLora",
            checkpoint=CHECKPOINT,
            dataset=["data", 0],
            preset="try out",
            steps=4,
            rank=4,
            learning_rate=1e-4,
            resolution=SIZE,
            filename_prefix=prefix,
            options=["adapter", 0],
        ),
    }


def picture(server, word: str) -> np.ndarray:
    base = {"base": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)}
    graph = picture_graph(base, ["base", 0], ["base", 1], TEXT.format(word))
    return pixels(server, server.client.run(graph, timeout=120)["save"])


def test_a_word_is_trained_and_used(server):
    shown = server.client.run(training("words/zoe", embedding_vectors=2), timeout=300)["train"]
    assert "write embedding:words/zoe in prompts, in place of 'zoe'" in shown["text"][0]
    path = server.output_dir / "embeddings" / "words" / "zoe.safetensors"
    assert {k: v.shape[0] for k, v in load_file(path).items()} == {"clip_l": 2, "clip_g": 2}
    assert [f["subfolder"] for f in shown["files"]] == ["loras/words", "embeddings/words"]
    lora = load_file(server.output_dir / "loras" / "words" / "zoe.safetensors")
    assert not any(k.startswith("bundle_emb") for k in lora)

    new, old = picture(server, "embedding:words/zoe"), picture(server, "zoe")
    assert np.abs(new - old).max() > 8
    assert "does not exist" not in server.log_text()
    np.testing.assert_array_equal(picture(server, "embedding:zoe"), new)

    # again: the same file; another content under the same name, also in a folder of the user's
    server.client.run(training("words/zoe", embedding_vectors=2), timeout=300)
    assert len(list(path.parent.glob("*.safetensors"))) == 1
    other = training("words/ann", embedding_vectors=3, embedding_init="a red coat")
    taken = server.models_dir / "embeddings" / "words" / "ann.safetensors"
    taken.parent.mkdir(parents=True, exist_ok=True)
    taken.write_bytes(path.read_bytes())
    shown = server.client.run(other, timeout=300)["train"]
    assert "write embedding:words/ann_00002 in prompts" in shown["text"][0]


def test_a_word_in_the_lora_is_the_one_trained_last(server):
    """Trained anew, the file has a number; prompts behind Apply LoRAs follow all the same."""
    bundle = "embedding: {learning_rate: %s, until: 1.0, bundle: true}\nsamples: {steps: 2}\n"
    for rate in ("0.5", "0.05"):
        graph = training("words/eve", bundle % rate, embedding_vectors=2)
        text = server.client.run(graph, timeout=300)["train"]["text"][0]
    assert "write embedding:words/eve_00002 in prompts" in text
    assert "with a clip from Apply LoRAs embedding:eve is this one" in text

    graph |= {
        "base": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "apply": node(
            "TroupeApplyLoras", model=["base", 0], clip=["base", 1], **{"loras.lora0": ["train", 0]}
        ),
    }

    def seen(word: str) -> np.ndarray:
        shown = picture_graph(graph, ["apply", 0], ["apply", 1], TEXT.format(word))
        return pixels(server, server.client.run(shown, timeout=300)["save"])

    def apart(one: np.ndarray, other: np.ndarray) -> int:
        return int(np.abs(one.astype(int) - other.astype(int)).max())

    newest = seen("embedding:eve")
    assert apart(newest, seen("embedding:words/eve_00002")) <= 2
    assert apart(newest, seen("embedding:words/eve")) > 8


@pytest.mark.parametrize(
    ("yaml", "options", "message"),
    [
        ("embedding: {name: ../../x}", {"embedding_vectors": 1}, "embedding.name.*should hold"),
        ("embedding: {words: ohwx}", {"embedding_vectors": 1}, "no caption names 'ohwx'"),
        ("", {"embedding_vectors": 1, "embedding_init": "a red coat"}, "has 3 tokens for 1 vector"),
    ],
)
def test_what_is_wrong_is_named(server, yaml, options, message):
    with pytest.raises(ExecutionError, match=message):
        server.client.run(training("wrong", yaml, **options), timeout=120)
