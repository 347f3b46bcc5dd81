"""What a person sees on our nodes: before a run, after it, when it fails, and with nothing there.

The server of this file starts as a fresh install does: no models, no inputs.
"""

import json
import shutil
import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from demo.inputs import keypoint_frames, write_frames
from tools.editor import Editor
from tools.server import ComfyServer

CHECKPOINT = "nano_sdxl.safetensors"
RENDERERS = pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
LONG_MS = 240_000


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Iterator[ComfyServer]:
    with ComfyServer(tmp_path_factory.mktemp("fresh"), cpu=True) as running:
        yield running


@pytest.fixture(scope="module")
def page(fresh, chromium):
    with Editor(fresh.url) as editor:
        yield editor


@pytest.fixture(scope="module")
def filled(fresh, nano_models):
    """The server once somebody has put a checkpoint and pictures there."""
    shutil.copytree(nano_models, fresh.models_dir, dirs_exist_ok=True)
    folder = fresh.input_dir / "zoe"
    folder.mkdir(exist_ok=True)
    for i in range(2):
        noise = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    (folder / "0.txt").write_text("noise", "utf-8")
    return fresh


class Nodes:
    """Nodes added as the menu adds them, and what their surfaces say."""

    def __init__(self, editor: Editor, vue: bool = False):
        self.editor, self.page = editor, editor.page
        editor.load({"nodes": [], "links": [], "version": 0.4, "id": str(uuid.uuid4())})
        self.page.evaluate(
            "async vue => { await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', vue);"
            " app.canvas.ds.scale = 0.7; app.canvas.ds.offset = [100, 140]; }",
            vue,
        )

    def add(self, kind: str, left: int = 0, **widgets) -> int:
        return self.page.evaluate(
            "([kind, left, widgets]) => { const node = LiteGraph.createNode(kind);"
            " node.pos = [left, 0]; app.graph.add(node);"
            " for (const [name, value] of Object.entries(widgets))"
            "   node.widgets.find(w => w.name === name).value = value;"
            " return node.id; }",
            [kind, left, widgets],
        )

    def link(self, source: int, target: int, name: str) -> None:
        self.page.evaluate(
            "([source, target, name]) => { const to = app.graph.getNodeById(target);"
            " const slot = to.inputs.findIndex(i => i.name === name);"
            " app.graph.getNodeById(source).connect(0, to, slot); }",
            [source, target, name],
        )

    def set(self, node: int, name: str, value) -> None:
        self.page.evaluate(
            "([node, name, value]) => { app.graph.getNodeById(node).widgets"
            ".find(w => w.name === name).value = value; }",
            [node, name, value],
        )

    def value(self, node: int, name: str):
        return self.page.evaluate(
            "([node, name]) => app.graph.getNodeById(node).widgets"
            ".find(w => w.name === name).value",
            [node, name],
        )

    def visible(self, node: int) -> list[str]:
        """Names of the widgets that the canvas shows."""
        return self.page.evaluate(
            "node => app.graph.getNodeById(node).widgets.filter(w => !w.hidden).map(w => w.name)",
            node,
        )

    def surface(self, node: int):
        return self.page.locator(f".troupe[data-node='{node}']")

    def says(self, node: int, part: str, text: str) -> str:
        """Wait until a part of the surface says something; all that it says."""
        found = self.page.wait_for_function(
            "([node, part, text]) => { const all ="
            " [...document.querySelectorAll(`.troupe[data-node='${node}'] .${part}`)];"
            " const said = all.filter(e => e.checkVisibility()).map(e => e.textContent);"
            " return said.find(s => s.includes(text)); }",
            arg=[node, part, text],
            timeout=LONG_MS,
        )
        return found.json_value()

    def run(self) -> None:
        self.page.evaluate("() => app.queuePrompt(0).catch(() => {})")

    def wait_for_queue(self) -> None:
        self.page.wait_for_function(
            "async () => { const queue = await (await fetch('/queue')).json();"
            " return !queue.queue_running.length && !queue.queue_pending.length; }",
            timeout=LONG_MS,
        )

    def wait(self, node: int, status: str, step: int = 0) -> None:
        self.page.wait_for_function(
            "([node, status, step]) => { const data ="
            " document.querySelector(`.troupe[data-node='${node}']`)?.dataset;"
            " return data?.status === status && Number(data.step) >= step; }",
            arg=[node, status, step],
            timeout=LONG_MS,
        )


def test_an_empty_install_says_what_to_put_where(page, fresh):
    nodes = Nodes(page)
    hints = {
        "TroupeLoadDataset": ("folder", "put pictures into input/NAME"),
        "TroupeTrainLora": ("checkpoint", "put an SDXL checkpoint into models/checkpoints"),
        "TroupeLoadIPAdapter": ("ipadapter_name", "put an IP-Adapter file into models/ipadapter"),
        "TroupeLoadPose": ("pose_file", "put a .json file into input/, or upload one"),
        "TroupeDetectPose": ("body_model", "put body_pose_model.pth into models/pose"),
        "TroupeCaptionImages": ("model", "put a model folder into models/captioners"),
    }
    ids = {kind: nodes.add(kind, 420 * i) for i, kind in enumerate(hints)}
    for kind, (widget, hint) in hints.items():
        assert nodes.value(ids[kind], widget) == hint
    nodes.run()
    said = nodes.says(ids["TroupeLoadDataset"], "wrong", "Put pictures into input/NAME")
    assert "press R" in said
    undefined = "() => app.graph.nodes.flatMap(n => n.widgets.filter(w => w.value === undefined))"
    assert page.page.evaluate(undefined) == []
    assert page.errors == []


def test_a_pose_is_uploaded_and_seen_without_a_run(page, fresh, tmp_path):
    nodes = Nodes(page)
    node = nodes.add("TroupeLoadPose")
    write_frames(tmp_path / "wave.json", keypoint_frames(1, 256))
    with page.page.expect_file_chooser() as chooser:
        nodes.surface(node).get_by_role("button", name="Upload").press("Enter")
    chooser.value.set_files(tmp_path / "wave.json")
    nodes.says(node, "facts", "1 person")
    assert nodes.value(node, "pose_file") == "wave.json"
    assert (fresh.input_dir / "wave.json").read_bytes() == (tmp_path / "wave.json").read_bytes()
    picture = nodes.surface(node).locator(".picture")
    assert picture.evaluate("e => e.complete && e.naturalWidth") > 50
    assert page.errors == []


def test_refreshing_the_lists_leaves_their_sentences(page, filled):
    nodes = Nodes(page)
    data = nodes.add("TroupeLoadDataset")
    train = nodes.add("TroupeTrainLora", 450)
    assert nodes.value(data, "folder").startswith("put ")
    page.page.evaluate("() => app.refreshComboInNodes()")
    page.page.wait_for_function("() => app.graph.nodes[0].widgets[0].value === 'zoe'")
    assert nodes.value(train, "checkpoint") == CHECKPOINT
    nodes.link(data, train, "dataset")
    nodes.set(train, "resolution", 64)
    said = nodes.says(train, "facts", "64 px, about 0.1 GB of main memory")
    assert "1500 steps, rank 16, learning rate 0.0001: 2 pictures" in said
    nodes.set(train, "preset", "style")
    assert "3000 steps, rank 32" in nodes.says(train, "facts", "3000 steps")
    assert "2 pictures\n1 without a caption file" in nodes.says(data, "facts", "2 pictures")


def training(nodes: Nodes, steps: int) -> tuple[int, int]:
    data = nodes.add("TroupeLoadDataset", folder="zoe")
    values = {"preset": "try out", "steps": steps, "resolution": 64}
    train = nodes.add("TroupeTrainLora", 450, checkpoint=CHECKPOINT, **values)
    nodes.link(data, train, "dataset")
    return data, train


@RENDERERS
def test_a_new_train_lora_goes_on_and_is_never_trained_twice(page, filled, vue):
    """Run, interrupt, Run, Run: nothing of the node is touched between them."""
    nodes = Nodes(page, vue)
    steps = 60 + vue  # another training in each renderer
    _, train = training(nodes, steps)
    nodes.set(train, "sample_prompts", "zoe")
    nodes.run()
    nodes.wait(train, "training", 3)
    page.page.evaluate("() => (window.comfyAPI.api.api).interrupt()")
    nodes.wait(train, "stopped", 3)
    nodes.run()
    nodes.wait(train, "done", steps)
    assert f"{steps} steps, loss" in nodes.says(train, "said", ".safetensors")
    for _ in range(2):
        nodes.run()
    nodes.wait_for_queue()
    (events,) = [
        [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in (filled.output_dir / "troupe" / "runs").glob("*/events.jsonl")
        if f'"steps": {steps}' in path.read_text("utf-8")
    ]
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, steps + 1))
    assert page.errors == []


@RENDERERS
def test_errors_and_reports_stand_on_the_node_also_after_a_reload(page, filled, vue):
    nodes = Nodes(page, vue)
    data = nodes.add("TroupeLoadDataset", folder="zoe")
    nodes.run()
    report = nodes.says(data, "said", "buckets at 1024 px")
    assert "warning: 1.png" in report and "\n" in report
    bad = nodes.add("TroupeTrainingOptions", 450, yaml="optimizer: {lerning_rate: 1}")
    nodes.says(bad, "warnings", "did you mean 'optimizer.learning_rate'")  # before it runs
    values = {"checkpoint": CHECKPOINT, "filename_prefix": "../up"}
    train = nodes.add("TroupeTrainLora", 900, **values)
    nodes.link(data, train, "dataset")
    nodes.link(bad, train, "options")
    nodes.run()
    assert nodes.says(train, "wrong", "..") == "filename_prefix '../up' must not contain '..'."
    nodes.set(train, "filename_prefix", "up")
    nodes.run()
    nodes.says(bad, "wrong", "did you mean 'optimizer.learning_rate'")
    workflow = page.page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))")
    assert "troupe_surface" not in json.dumps([workflow, page.prompt()])
    page.reload()
    page.load(workflow)
    assert nodes.says(data, "said", "buckets at 1024 px") == report
    nodes.says(bad, "wrong", "did you mean 'optimizer.learning_rate'")
    assert page.errors == []


@RENDERERS
def test_a_keyboard_reads_and_copies_a_report(page, filled, vue):
    nodes = Nodes(page, vue)
    data = nodes.add("TroupeLoadDataset", folder="zoe")
    nodes.run()
    nodes.says(data, "said", "buckets")
    copy = nodes.surface(data).get_by_role("button", name="Copy")
    copy.focus()
    page.page.keyboard.press("Tab")
    report = nodes.surface(data).get_by_role("region")
    assert report.evaluate("e => e === document.activeElement")
    page.page.keyboard.press("Shift+Tab")
    page.page.keyboard.press("Enter")
    nodes.says(data, "troupe-button", "Copied")
    assert nodes.surface(data).count() == 1


def test_widgets_of_experts_are_folded_away_and_category_fields_show_where_they_count(page, filled):
    folder = filled.input_dir / "wardrobe" / "attire"
    if not folder.exists():
        shutil.copytree(filled.input_dir / "zoe", folder)
    nodes = Nodes(page)
    data = nodes.add("TroupeLoadDataset", folder="zoe")
    nodes.says(data, "facts", "2 pictures")
    assert nodes.visible(data) == ["folder", "trigger", "troupe_surface"]
    nodes.surface(data).get_by_role("button", name="8 more settings").press("Enter")
    assert "weight" in nodes.visible(data) and "attire_trigger" not in nodes.visible(data)
    nodes.set(data, "folder", "wardrobe")
    nodes.says(data, "facts", "2 in attire/")
    assert "attire_trigger" in nodes.visible(data)
    nodes.surface(data).get_by_role("button", name="Fewer settings").press("Enter")
    assert nodes.visible(data) == ["folder", "trigger", "troupe_surface"]
    values = page.page.evaluate("() => app.graph.serialize().nodes[0].widgets_values")
    assert len(values) == 18 and values[0] == "wardrobe"
