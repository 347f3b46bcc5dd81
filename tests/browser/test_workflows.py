"""The workflows as a person meets them: opened from the template browser, run, looked at."""

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from tools.build_workflows import QUICK, place_everything
from tools.editor import Editor, read_workflow
from tools.server import PACK_FOLDER, ComfyServer
from tools.sketches import SKETCHES

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
Box = tuple[float, float, float, float]


@pytest.fixture(scope="module")
def studio(tmp_path_factory) -> Iterator[ComfyServer]:
    """A ComfyUI with all inputs, and the miniature under the names of the workflows' models."""
    with ComfyServer(tmp_path_factory.mktemp("studio"), cpu=True) as server:
        place_everything(server)
        yield server


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "vue"])
def page(request, studio, chromium) -> Iterator[Editor]:
    with Editor(studio.url, width=1920, height=1080) as editor:
        editor.use_vue(request.param)
        yield editor
        editor.use_vue(False)


@pytest.mark.parametrize("name", SKETCHES)
def test_one_click_in_the_template_browser_opens_it(page, name):
    assert name.replace("_", " ") in page.open_template(PACK_FOLDER, name)
    assert page.prompt() == json.loads((FOLDER / "api" / f"{name}.json").read_text("ascii"))
    assert page.errors == []


@pytest.mark.parametrize("name", SKETCHES)
def test_nothing_covers_its_neighbour_before_and_after_a_run(page, studio, name):
    workflow = read_workflow(FOLDER / f"{name}.json")
    page.load(workflow)
    page.set_widgets(QUICK)
    check(workflow, page.boxes())
    studio.client.free()  # so that every node shows anew what it made
    page.run(studio.client)
    check(workflow, page.boxes())


def check(workflow: dict, boxes: dict[str, Box]) -> None:
    names = {str(n["id"]): n.get("title") or n["type"] for n in workflow["nodes"]}
    assert set(names) == set(boxes)
    pairs = combinations(boxes, 2)
    assert not [(names[a], names[b]) for a, b in pairs if overlap(boxes[a], boxes[b])]
    groups = [group["bounding"] for group in workflow["groups"]]
    assert not [names[k] for k, box in boxes.items() if not any(inside(box, g) for g in groups)]


def overlap(a: Box, b: Box) -> bool:
    """By more than a pixel: HTML and canvas round differently."""
    return (min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]) > 1
            and min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]) > 1)  # fmt: skip


def inside(a: Box, b: Box) -> bool:
    return (a[0] >= b[0] - 1 and a[1] >= b[1] - 1
            and a[0] + a[2] <= b[0] + b[2] + 1 and a[1] + a[3] <= b[1] + b[3] + 1)  # fmt: skip
