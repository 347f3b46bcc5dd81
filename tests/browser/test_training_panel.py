"""The live panel of a training on the real page: it shows, survives, pauses, and stays outside."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from tests.browser.rows import row, side_by_side
from tools.sketch import Sketch

SIDE = 64
SEEDS = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def pictures(server):
    folder = server.input_dir / "panel"
    folder.mkdir(parents=True)
    for i in range(2):
        noise = np.random.default_rng(i).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("noise", "utf-8")


def sketch(*steps: int, sample_every: int = 0) -> Sketch:
    """One Train SDXL LoRA per number of steps."""
    out = row()
    out.node("data", "TroupeLoadDataset", folder="panel")
    out.node("options", "TroupeTrainingOptions", yaml="samples: {steps: 1}")
    for i, number in enumerate(steps):
        out.node(
            f"train{i}",
            "TroupeTrainLora",
            box=(420, 900),
            checkpoint="nano_sdxl.safetensors",
            preset="try out",
            steps=number,
            rank=4,
            resolution=SIDE,
            seed=next(SEEDS),
            sample_every=sample_every,
            inputs={"dataset": ("data", "dataset"), "options": ("options", "options")},
        )
    return out


class Panels:
    """The panels on an editor's page, by node id."""

    def __init__(self, editor):
        self.page = editor.page

    def show(self, vue: bool = False) -> None:
        self.page.evaluate(
            "async vue => { await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', vue);"
            " app.canvas.ds.scale = 0.7; app.canvas.ds.offset = [40, 60];"
            " app.canvas.setDirty(true, true); }",
            vue,
        )

    def queue(self) -> None:
        self.page.evaluate("() => app.queuePrompt(0)")

    def one(self, node: int):
        return self.page.locator(f".troupe-training[data-node='{node}']")

    def wait(self, node: int, status: str, step: int = 0) -> None:
        self.page.wait_for_function(
            "([node, status, step]) => { const panel ="
            " document.querySelector(`.troupe-training[data-node='${node}']`);"
            " if (panel?.dataset.status === 'failed' && status !== 'failed')"
            " throw new Error(panel.innerText);"
            " return panel?.dataset.status === status && Number(panel.dataset.step) >= step; }",
            arg=[node, status, step],
            timeout=240_000,
        )

    def points(self, node: int, wanted: int) -> int:
        """Points of the loss curve, as soon as there are `wanted`: a page may have to ask again."""
        curve = self.one(node).locator("svg .loss")
        for _ in range(50):
            if int(curve.get_attribute("data-points")) == wanted:
                break
            self.page.wait_for_timeout(100)
        return int(curve.get_attribute("data-points"))

    def figures(self, node: int, step: int) -> dict[str, str]:
        """What is shown while it trains, from `step` on; at once, as the next message renews it."""
        found = self.page.wait_for_function(
            "([node, step]) => { const panel ="
            " document.querySelector(`.troupe-training[data-node='${node}']`);"
            " if (panel?.dataset.status !== 'training' || panel.dataset.step < step) return;"
            " const cells = [...panel.querySelectorAll('.figure')];"
            " const shown = cells.map(c => [c.dataset.name, c.querySelector('b').innerText]);"
            " const all = [...panel.querySelectorAll('button')];"
            " const buttons = all.filter(b => b.checkVisibility());"
            " return { ...Object.fromEntries(shown), buttons: buttons.map(b => b.innerText) }; }",
            arg=[node, step],
            timeout=240_000,
        )
        return found.json_value()

    def press(self, node: int, button: str) -> None:
        """Click a button as soon as it shows; in the page, because a short training is faster."""
        self.page.wait_for_function(
            "([node, text]) => { const all ="
            " document.querySelectorAll(`.troupe-training[data-node='${node}'] button`);"
            " const button = [...all].find(b => b.innerText === text && b.checkVisibility());"
            " button?.click(); return Boolean(button); }",
            arg=[node, button],
            timeout=240_000,
        )


@pytest.fixture
def panels(editor):
    return Panels(editor)


def load(editor, sketch: Sketch) -> dict:
    workflow = editor.build(sketch, side_by_side(sketch))
    editor.load(workflow)
    return workflow


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_curve_figures_and_samples_appear_while_it_trains(editor, panels, server, vue):
    workflow = load(editor, sketch(20, sample_every=10))
    panels.show(vue)
    node = workflow["nodes"][2]["id"]
    panels.wait(node, "idle")
    idle = panels.one(node).bounding_box()
    panels.queue()
    figures = panels.figures(node, 1)
    assert {"loss", "learning rate", "speed", "memory", "left"} <= set(figures)
    assert figures["buttons"] == ["Pause", "Let others first"]
    panels.wait(node, "done", 20)
    assert panels.points(node, 20) == 20
    shown = panels.one(node)
    assert shown.locator(".status").inner_text().startswith("Done \u00b7 step 20 / 20")
    assert shown.locator("figcaption").all_inner_texts() == ["step 20", "step 10"]
    loaded = "e => e.complete && e.naturalWidth"
    editor.page.wait_for_timeout(300)
    assert [i.evaluate(loaded) for i in shown.locator("figure img").all()] == [SIDE] * 4
    assert shown.bounding_box()["height"] > idle["height"] or vue
    saved = editor.page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))")
    before, after = (w["nodes"][2]["widgets_values"] for w in (workflow, saved))
    assert before == after and "fixed" in after
    assert "troupe_surface" not in json.dumps(editor.prompt())
    assert editor.errors == []


def test_two_trainings_in_one_graph_keep_apart(editor, panels):
    workflow = load(editor, sketch(3, 4))
    panels.show()
    first, second = (n["id"] for n in workflow["nodes"][2:])
    panels.queue()
    panels.wait(first, "done", 3)
    panels.wait(second, "done", 4)
    assert (panels.points(first, 3), panels.points(second, 4)) == (3, 4)


def test_a_pause_lets_others_run_and_goes_on_where_it_was(editor, panels, server):
    workflow = load(editor, sketch(100))
    panels.show()
    node = workflow["nodes"][2]["id"]
    panels.queue()
    panels.wait(node, "training", 2)
    panels.press(node, "Pause")
    panels.wait(node, "paused", 2)
    step = int(panels.one(node).get_attribute("data-step"))
    assert step < 100
    noise = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64}}
    noise["inputs"]["batch_size"] = 1
    save = {"class_type": "SaveLatent", "inputs": {"samples": ["1", 0], "filename_prefix": "x"}}
    server.client.run({"1": noise, "2": save}, timeout=30)  # nothing holds the queue
    panels.press(node, "Go on")
    panels.wait(node, "training", step)
    panels.press(node, "Let others first")  # goes on by itself
    panels.wait(node, "done", 100)
    (run,) = [
        path
        for path in (server.output_dir / "troupe" / "runs").glob("*/events.jsonl")
        if '"steps": 100' in path.read_text("utf-8")
    ]
    events = [json.loads(line) for line in run.read_text("utf-8").splitlines()]
    starts = [e["resumed_from"] for e in events if e["event"] == "plan"]
    assert len(starts) == 3 and starts[0] == 0 and step <= starts[1] <= starts[2] < 100
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, 101))


LOSE = """() => {
  const api = (window.comfyAPI ?? {}).api.api, pass = api.dispatchEvent.bind(api);
  let arrived = 0;
  api.dispatchEvent = (event) =>
    event.type === "troupe.training" && arrived++ % 3 ? true : pass(event);
}"""


def test_lost_messages_and_a_reloaded_page_lose_nothing(editor, panels):
    """The page is opened anew when it is half done, and then two of three messages never arrive."""
    workflow = load(editor, sketch(80))
    panels.show()
    node = workflow["nodes"][2]["id"]
    panels.queue()
    panels.wait(node, "training", 3)
    editor.reload()
    editor.page.evaluate(LOSE)
    editor.load(workflow)
    panels.wait(node, "done", 80)
    assert panels.points(node, 80) == 80
    assert editor.errors == []
