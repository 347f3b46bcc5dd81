"""ComfyUI's real graph editor in headless Chromium: builds, loads and converts workflow files.

The workflow files of the pack are written by the editor itself, so they are exactly what it saves,
and the tests can ask the editor whether it still reads them and how it would queue them. Needs the
package `playwright` and a Chromium (`apt-get install chromium`, or set CHROMIUM to its path).
"""

import io
import json
import os
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from headless import Client

from .server import PACK_FOLDER
from .sketch import Layout, Sketch

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

_BUILD_JS = """
async (spec) => {
  const app = window.app ?? window.comfyAPI.app.app;
  const graph = app.graph;
  graph.clear();
  const made = {};
  const settle = () => new Promise(r => setTimeout(r, 30));
  for (const item of spec.nodes) {
    const node = LiteGraph.createNode(item.type);
    if (!node) throw new Error('no such node: ' + item.type);
    node.pos = item.box.slice(0, 2);
    // A page keeps widget values by the number of the node, beyond the graph they were in.
    const fresh = (node.widgets ?? []).map(w => [w, w.value]);
    graph.add(node);
    for (const [widget, value] of fresh) widget.value = value;
    if (item.title) node.title = item.title;
    made[item.name] = node;
    for (const [name, value] of Object.entries(item.widgets)) {
      const widget = (node.widgets ?? []).find(w => w.name === name);
      if (!widget) throw new Error(item.type + ' has no widget ' + name + ': ' +
                                   (node.widgets ?? []).map(w => w.name).join(', '));
      widget.value = value;
      if (widget.callback) { try { widget.callback(value, app.canvas, node); } catch (e) {} }
      widget.value = value;
      await settle();
    }
    if (item.properties) Object.assign(node.properties, item.properties);
  }
  for (const [src, output, dst, input, bends] of spec.links) {
    const from = made[src], to = made[dst];
    const slot = from.outputs.findIndex(o => o.name === output || o.label === output);
    if (slot < 0) throw new Error(src + ' has no output ' + output + ': ' +
                                  from.outputs.map(o => o.name).join(', '));
    const target = to.inputs.findIndex(i => i.name === input);
    if (target < 0) throw new Error(dst + ' has no input ' + input + ': ' +
                                    to.inputs.map(i => i.name).join(', '));
    const link = from.connect(slot, to, target);
    for (const bend of bends) graph.createReroute(bend, link);
    await settle();
  }
  for (const item of spec.nodes) made[item.name].setSize(item.box.slice(2));
  for (const group of spec.groups) {
    const box = new LiteGraph.LGraphGroup(group.title);
    graph.add(box);
    box.color = group.color;
    box.pos = group.box.slice(0, 2);
    box.size = group.box.slice(2);
  }
  await settle();
  return JSON.parse(JSON.stringify(graph.serialize()));
}
"""
_APP = "(window.app ?? window.comfyAPI.app.app)"
_LOAD_JS = f"async (workflow) => {{ await {_APP}.loadGraphData(workflow); }}"
_PROMPT_JS = f"async () => (await {_APP}.graphToPrompt()).output"


_FIT_JS = f"""
async () => {{
  const canvas = {_APP}.canvas, ds = canvas.ds;
  const items = [...canvas.graph.nodes, ...canvas.graph.groups];
  const boxes = items.map(item => item.boundingRect ?? item._bounding);
  const left = Math.min(...boxes.map(b => b[0])), top = Math.min(...boxes.map(b => b[1]));
  const right = Math.max(...boxes.map(b => b[0] + b[2]));
  const bottom = Math.max(...boxes.map(b => b[1] + b[3]));
  const area = canvas.canvas.getBoundingClientRect(), margin = 20;
  ds.scale = Math.min((area.width - 2 * margin) / (right - left),
                      (area.height - 2 * margin) / (bottom - top));
  ds.offset = [margin / ds.scale - left, margin / ds.scale - top];
  window.__extent = [0, 0, (right - left) * ds.scale + 2 * margin,
                     (bottom - top) * ds.scale + 2 * margin].map(Math.round);
  canvas.min_font_size_for_lod = 0;
  canvas.show_info = false;
  canvas.setDirty(true, true);
}}
"""
_SET_JS = f"""
(values) => {{
  for (const node of {_APP}.graph.nodes)
    for (const [name, value] of Object.entries(values[node.type] ?? {{}}))
      node.widgets.find(w => w.name === name).value = value;
}}
"""
_BROWSE_JS = f"() => {_APP}.extensionManager.command.execute('Comfy.BrowseTemplates')"
_QUEUE_JS = f"async () => {{ await {_APP}.queuePrompt(0, 1); }}"
_BOXES_JS = f"""
(vue) => {{
  const canvas = {_APP}.canvas, ds = canvas.ds, boxes = {{}};
  const area = canvas.canvas.getBoundingClientRect();
  for (const node of canvas.graph.nodes) {{
    boxes[node.id] = Array.from(node.boundingRect);
    if (!vue) continue;
    const box = document.querySelector(`[data-node-id="${{node.id}}"]`).getBoundingClientRect();
    boxes[node.id] = [(box.x - area.x) / ds.scale - ds.offset[0],
                      (box.y - area.y) / ds.scale - ds.offset[1],
                      box.width / ds.scale, box.height / ds.scale];
  }}
  return boxes;
}}
"""
_EXTENT_JS = "() => window.__extent"
# Everything but the canvas and the widgets that lie on it.
_ONLY_GRAPH_CSS = """
.workflow-tabs-container, .side-tool-bar-container, .subgraph-breadcrumb, .actionbar-container,
.p-buttongroup, .minimap-main-container, .p-toast, .p-panel { display: none !important; }
"""


def find_chromium() -> str:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        raise FileNotFoundError("No Chromium found: apt-get install chromium, or set CHROMIUM.")
    return path


def foreign(stack: str | None, folder: str = PACK_FOLDER) -> bool:
    """Whether an error of the page comes from the module of another pack.

    ComfyUI serves modules of packs as /extensions/FOLDER/... and its own as /extensions/core/ or
    /assets/; an error of its own counts, since a workflow that it cannot read is our fault.
    """
    packs = set(re.findall(r"/extensions/([^/\s]+)/", stack or "")) - {"core"}
    return bool(packs) and folder not in packs


class Editor:
    """The editor page of a running server; a context manager.

    Example:
        with Editor(server.url) as editor:
            editor.load(json.loads(Path("workflows/compose_scene.json").read_text()))
            prompt = editor.prompt()
    """

    def __init__(self, url: str, width: int = 1600, height: int = 1000) -> None:
        self.url, self.width, self.height = url, width, height
        self.vue = False

    def __enter__(self) -> "Editor":
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(
            executable_path=find_chromium(), args=CHROMIUM_FLAGS, headless=True
        )
        self.page = self._browser.new_page(viewport={"width": self.width, "height": self.height})
        self.errors: list[str] = []
        self.page.on(
            "pageerror", lambda e: None if foreign(e.stack) else self.errors.append(str(e))
        )
        # without this, a new user is shown the template browser over the graph
        self.page.request.post(f"{self.url}/settings/Comfy.TutorialCompleted", data="true")
        self._open()
        return self

    def __exit__(self, *exc: object) -> None:
        self._browser.close()
        self._playwright.stop()

    def reload(self) -> None:
        """As if the user pressed F5; the graph that was open may be gone."""
        self._open()

    def _open(self) -> None:
        self.page.goto(self.url)
        self.page.wait_for_function(
            "() => { const a = window.app ?? window.comfyAPI?.app?.app;"
            " return a && a.graph && window.LiteGraph &&"
            " LiteGraph.registered_node_types['KSampler'] !== undefined; }",
            timeout=120_000,
        )
        # The page opens a graph by itself, the last or an example; late, on a busy machine.
        self.page.wait_for_function(f"() => {_APP}.graph.nodes.length > 0", timeout=60_000)
        self.page.wait_for_timeout(1500)

    def build(self, sketch: Sketch, layout: Layout) -> dict[str, Any]:
        """The workflow (format 0.4) that the editor saves for a sketch."""
        spec = {
            "nodes": [node | {"box": layout.nodes[node["name"]]} for node in sketch.nodes],
            "links": [[*link, layout.bends.get(i, ())] for i, link in enumerate(sketch.links)],
            "groups": [{"title": t, "color": c, "box": box} for t, c, box in layout.groups],
        }
        workflow = self.page.evaluate(_BUILD_JS, spec)
        name = json.dumps(sketch.nodes, sort_keys=True)
        workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
        return workflow

    def load(self, workflow: dict[str, Any]) -> None:
        self.page.evaluate(_LOAD_JS, workflow)
        self.page.wait_for_timeout(500)

    def open_template(self, module: str, name: str) -> str:
        """Open a workflow as a person does: the template browser, the pack, a click on it.

        Returns:
            What the card said.
        """
        self.page.evaluate(_BROWSE_JS)
        self.page.get_by_text(module, exact=True).first.click()
        card = self.page.get_by_test_id(f"template-workflow-{name}")
        card.wait_for()
        said = card.inner_text()
        card.click()
        card.wait_for(state="detached")  # the browser closes when the workflow is there
        self.page.wait_for_timeout(1000)
        return said

    def set_widgets(self, values: dict[str, dict[str, Any]]) -> None:
        """Set widgets of the open graph: node type -> name -> value."""
        self.page.evaluate(_SET_JS, values)

    def prompt(self) -> dict[str, Any]:
        """The open graph as the editor would queue it (API format)."""
        return self.page.evaluate(_PROMPT_JS)

    def fit(self) -> None:
        """Show the whole graph."""
        self.page.evaluate(_FIT_JS)
        self.page.wait_for_timeout(500)

    def use_vue(self, vue: bool) -> None:
        """Choose how nodes are drawn, on the canvas or as HTML; the page is loaded anew."""
        setting = f"{self.url}/settings/Comfy.VueNodes.Enabled"
        self.page.request.post(setting, data=json.dumps(vue))
        self.vue = vue
        self.reload()

    def run(self, client: Client, timeout: float = 600.0) -> None:
        """Press Run, and wait until everything is done and shown.

        Raises:
            TimeoutError: it was not done in `timeout` seconds. AssertionError: it was refused.
        """
        known = set(client.get_json("/history"))
        self.page.evaluate(_QUEUE_JS)
        deadline = time.monotonic() + timeout
        while len(new := set(client.get_json("/history")) - known) < 1:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done in {timeout:.0f} s")
            time.sleep(0.5)
        client.wait(new.pop())
        self.page.wait_for_timeout(2500)

    def boxes(self) -> dict[str, tuple[float, float, float, float]]:
        """(x, y, width, height) of every node with its title bar, by id, as it is drawn."""
        self.fit()
        found = self.page.evaluate(_BOXES_JS, self.vue)
        return {key: tuple(box) for key, box in found.items()}

    def picture(self, path: Path, width: int) -> None:
        """The whole open graph as a JPEG of `width` pixels, without the editor's bars."""
        from PIL import Image

        self.page.evaluate(_FIT_JS)
        self.page.add_style_tag(content=_ONLY_GRAPH_CSS)
        self.page.wait_for_timeout(1500)
        left, top, right, bottom = self.page.evaluate(_EXTENT_JS)
        clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        shot = self.page.screenshot(clip=clip)
        image = Image.open(io.BytesIO(shot)).convert("RGB")
        size = (width, round(image.height * width / image.width))
        image.resize(size, Image.Resampling.LANCZOS).save(path, quality=85, optimize=True)


def read_workflow(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
