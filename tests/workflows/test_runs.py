"""The shipped workflows run with the miniature: only model file names are swapped.

Pictures are small because the pose files placed in ComfyUI's input have a small canvas, and
trainings are short.
"""

import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from demo.inputs import place_inputs
from demo.swap import with_nano

FOLDER = Path(__file__).resolve().parents[2] / "workflows" / "api"
CANVAS, FRAMES, STEPS = 128, 3, 60


@pytest.fixture(scope="module")
def ready(server):
    place_inputs(server.input_dir, CANVAS, FRAMES)
    return server


def run(server, name: str) -> tuple[dict, dict]:
    prompt = with_nano(json.loads((FOLDER / f"{name}.json").read_text("ascii")))
    for node in prompt.values():
        if node["class_type"] == "TroupeMiniatureCast":
            node["inputs"]["frames"] = FRAMES
        if node["class_type"] == "TroupeTrainLora":
            assert node["inputs"]["steps"] > STEPS
            node["inputs"]["steps"] = STEPS
    outputs = server.client.run(prompt, timeout=900)
    return prompt, {prompt[node]["_meta"]["title"]: value for node, value in outputs.items()}


def pictures(server, shown: dict) -> list[np.ndarray]:
    found = [Image.open(io.BytesIO(server.client.view(**item))) for item in shown["images"]]
    return [np.asarray(picture.convert("RGB")) for picture in found]


def test_train_lora(ready):
    before = len(ready.log_text())
    _, outputs = run(ready, "train_lora")
    (file,) = outputs["Train SDXL LoRA"]["files"]
    assert (ready.output_dir / "loras" / "troupe" / file["filename"]).is_file()
    assert f"{STEPS} steps" in outputs["Train SDXL LoRA"]["text"][0]
    (picture,) = pictures(ready, outputs["Picture with the LoRA"])
    assert picture.std() > 1
    assert "lora key not loaded" not in ready.log_text()[before:]


def test_compose_scene(ready):
    _, outputs = run(ready, "compose_scene")
    (picture,) = pictures(ready, outputs["Picture"])
    assert picture.shape == (CANVAS, CANVAS, 3) and picture.std() > 1
    assert pictures(ready, outputs["Masks and references"])


def check_film(server, prompt: dict, shown: dict) -> None:
    (item,) = shown["images"]
    timeline = next(n for n in prompt.values() if n["class_type"] == "TroupeTimeline")["inputs"]
    with av.open(io.BytesIO(server.client.view(**item))) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (timeline["width"], timeline["height"])
        assert stream.average_rate == timeline["fps"]
        assert int(stream.codec_context.colorspace) == 1  # BT.709
        frames = sum(1 for _ in container.decode(stream))
        embedded = json.loads(container.metadata["prompt"])
    shots = [prompt[timeline[key][0]]["inputs"] for key in timeline if key.startswith("shots.")]
    seconds = sum(s["duration"] for s in shots) - sum(s["transition_duration"] for s in shots[1:])
    assert frames == round(seconds * timeline["fps"])
    for node in embedded.values():
        node.pop("is_changed", None)  # ComfyUI's own note
    assert embedded == prompt


def test_pose_sequence_to_film(ready):
    prompt, outputs = run(ready, "pose_sequence_to_film")
    check_film(ready, prompt, outputs["Film"])


def test_full_pipeline(ready):
    before = len(ready.log_text())
    prompt, outputs = run(ready, "full_pipeline")
    check_film(ready, prompt, outputs["Film"])
    for scene in ("Wide", "Close"):
        assert len(pictures(ready, outputs[f"{scene} scene: pictures"])) == FRAMES
    assert "lora key not loaded" not in ready.log_text()[before:]


def test_miniature_film(ready):
    prompt, outputs = run(ready, "miniature_film")
    check_film(ready, prompt, outputs["Film"])
    assert pictures(ready, outputs["How it is composed"])
