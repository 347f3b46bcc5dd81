"""Writes workflows/*.json and their API twins: sketches, run and drawn by the real editor.

`python -m tools.build_workflows [NAME ...]` after a node's inputs or looks changed; the tests say
when it is needed (`--same-sizes` where only the order of things did). Nodes grow when they show
what they made, more so in one renderer than in the other: so every workflow is run in both, with
the miniature in the place of its models, and laid out by the largest size that each node took.
"""

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from .editor import Editor
from .server import ComfyServer
from .sketch import TITLE, Size, Sketch, arrange
from .sketch_parts import CHECKPOINT, CLIP_VISION, CONTROLNET, IPADAPTER, MODELS
from .sketches import SKETCHES

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS, IMAGES = ROOT / "workflows", ROOT / "docs" / "images"
CANVAS, FRAMES = 128, 2
QUICK = {  # so that looking at a workflow takes seconds
    "TroupeTrainLora": {"steps": 12},
    "KSampler": {"steps": 2},
    "EmptyLatentImage": {"width": CANVAS, "height": CANVAS},
    "TroupeMiniatureCast": {"frames": FRAMES},
}
GUESS = 1200  # more than any node takes


def main(arguments: list[str]) -> None:
    again = "--same-sizes" in arguments  # lay out anew without running anything
    names = [name for name in arguments if name != "--same-sizes"]
    (WORKFLOWS / "api").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        place_everything(server)
        with Editor(server.url, width=2400, height=1350) as editor:
            for name in names or SKETCHES:
                sketch = SKETCHES[name]()
                sizes = (known_sizes(sketch, WORKFLOWS / f"{name}.json") if again
                         else seen_sizes(sketch, editor, server))  # fmt: skip
                workflow = editor.build(sketch, arrange(sketch, sizes))
                editor.load(workflow)
                _write(WORKFLOWS / f"{name}.json", workflow)
                _write(WORKFLOWS / "api" / f"{name}.json", editor.prompt())
                if name == "full_pipeline":
                    editor.picture(IMAGES / f"{name}.jpg", 1800)
                print(name, flush=True)
            if editor.errors:
                raise RuntimeError("the editor reported: " + "; ".join(editor.errors))


def place_everything(server: ComfyServer) -> None:
    """All inputs, and the miniature under the names of the models that the workflows ask for."""
    from demo.inputs import place_inputs
    from demo.trained import place_trained

    place_inputs(server.input_dir, CANVAS, FRAMES)
    with tempfile.TemporaryDirectory() as folder:
        files = place_trained(Path(folder))
        for name, file in (
            (CHECKPOINT, files.checkpoint), (CONTROLNET, files.controlnet),
            (CLIP_VISION, files.clip_vision), (IPADAPTER, files.ip_adapter_plus),
        ):  # fmt: skip
            target = server.models_dir / MODELS[name]["directory"] / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def known_sizes(sketch: Sketch, path: Path) -> dict[str, Size]:
    """The sizes that a workflow file has for the nodes of its sketch, by type and title."""
    nodes = json.loads(path.read_text("ascii"))["nodes"]
    known = {(node["type"], node.get("title")): tuple(node["size"]) for node in nodes}
    by_type = {node["type"]: tuple(node["size"]) for node in nodes}
    return {
        node["name"]: known.get((node["type"], node["title"]), by_type[node["type"]])
        for node in sketch.nodes
    }


def seen_sizes(sketch: Sketch, editor: Editor, server: ComfyServer) -> dict[str, Size]:
    """The largest (width, height without title bar) of each node, before and after a run."""
    names = [node["name"] for node in sketch.nodes]
    sizes = {node["name"]: tuple(node["size"]) for node in sketch.nodes}
    for vue in (False, True):
        editor.use_vue(False)  # files are built on the canvas
        loose = arrange(sketch, {n: (w, max(h, GUESS)) for n, (w, h) in sizes.items()})
        nodes = {name: (*box[:2], *sizes[name]) for name, box in loose.nodes.items()}
        workflow = editor.build(sketch, replace(loose, nodes=nodes))
        editor.use_vue(vue)
        editor.load(workflow)
        editor.set_widgets(QUICK)
        server.client.free()
        for ran in (False, True):
            if ran:
                editor.run(server.client)
            boxes = editor.boxes()
            ids = sorted(node["id"] for node in workflow["nodes"])  # as they were made
            for name, number in zip(names, ids, strict=True):
                (width, height), (_, _, w, h) = sizes[name], boxes[str(number)]
                sizes[name] = (max(width, round(w)), max(height, round(h - TITLE)))
    editor.use_vue(False)
    return sizes


def _write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=True) + "\n", encoding="ascii")


if __name__ == "__main__":
    main(sys.argv[1:])
