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
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .server import PACK_FOLDER

ROOT = Path(__file__).resolve().parent.parent
VERSION = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)[1]
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
    node.pos = item.pos;
    graph.add(node);
    if (item.title) node.title = item.title;
    if (item.color) { node.color = item.color; node.bgcolor = item.bgcolor; }
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
    if (item.size) node.setSize(item.size);
    if (item.properties) Object.assign(node.properties, item.properties);
  }
  for (const [src, output, dst, input] of spec.links) {
    const from = made[src], to = made[dst];
    const slot = from.outputs.findIndex(o => o.name === output || o.label === output);
    if (slot < 0) throw new Error(src + ' has no output ' + output + ': ' +
                                  from.outputs.map(o => o.name).join(', '));
    const target = to.inputs.findIndex(i => i.name === input);
    if (target < 0) throw new Error(dst + ' has no input ' + input + ': ' +
                                    to.inputs.map(i => i.name).join(', '));
    from.connect(slot, to, target);
    await settle();
  }
  for (const group of spec.groups) {
    const box = new LiteGraph.LGraphGroup(group.title);
    graph.add(box);
    box.color = group.color;
    box.pos = [group.bounding[0], group.bounding[1]];
    box.size = [group.bounding[2], group.bounding[3]];
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
_EXTENT_JS = "() => window.__extent"
# Everything but the canvas and the widgets that lie on it.
_ONLY_GRAPH_CSS = """
.workflow-tabs-container, .side-tool-bar-container, .subgraph-breadcrumb, .actionbar-container,
.p-buttongroup, .minimap-main-container, .p-toast, .p-panel { display: none !important; }
"""


@dataclass
class Sketch:
    """A workflow described by names; the editor turns it into a file."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[tuple[str, str, str, str]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)

    def node(
        self,
        name: str,
        type_: str,
        pos: tuple[int, int],
        *,
        size: tuple[int, int] | None = None,
        title: str | None = None,
        models: list[dict[str, str]] | None = None,
        inputs: dict[str, tuple[str, str]] | None = None,
        color: str | None = None,
        **widgets: Any,
    ) -> str:
        """Add a node; `inputs` maps an input name to (source node name, output name)."""
        self.nodes.append(
            {
                "name": name,
                "type": type_,
                "pos": list(pos),
                "size": list(size) if size else None,
                "title": title,
                "widgets": widgets,
                "color": color,
                "bgcolor": color,
                "properties": _properties(type_, models),
            }
        )
        for input_name, (source, output) in (inputs or {}).items():
            self.links.append((source, output, name, input_name))
        return name

    def group(
        self, title: str, bounding: tuple[int, int, int, int], color: str = "#3f789e"
    ) -> None:
        self.groups.append({"title": title, "bounding": list(bounding), "color": color})


def _properties(type_: str, models: list[dict[str, str]] | None) -> dict[str, Any]:
    """Which pack a node is from, so that an editor without it can offer to install it."""
    ours = type_.startswith("Troupe")
    pack = {"cnr_id": "troupe", "ver": VERSION} if ours else {"cnr_id": "comfy-core"}
    return (pack if type_ != "MarkdownNote" else {}) | ({"models": models} if models else {})


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
        self.page.wait_for_timeout(1500)

    def build(self, sketch: Sketch) -> dict[str, Any]:
        """The workflow (format 0.4) that the editor saves for a sketch."""
        spec = {"nodes": sketch.nodes, "links": sketch.links, "groups": sketch.groups}
        workflow = self.page.evaluate(_BUILD_JS, spec)
        name = json.dumps(sketch.nodes, sort_keys=True)
        workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
        return workflow

    def load(self, workflow: dict[str, Any]) -> None:
        self.page.evaluate(_LOAD_JS, workflow)
        self.page.wait_for_timeout(500)

    def prompt(self) -> dict[str, Any]:
        """The open graph as the editor would queue it (API format)."""
        return self.page.evaluate(_PROMPT_JS)

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
