"""ComfyUI's real graph editor in headless Chromium: builds, loads and converts workflow files.

The workflow files of the pack are written by the editor itself, so they are exactly what it saves,
and the tests can ask the editor whether it still reads them and how it would queue them. Needs the
package `playwright` and a Chromium (`apt-get install chromium`, or set CHROMIUM to its path).
"""

import json
import os
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
                "properties": {"models": models} if models else None,
            }
        )
        for input_name, (source, output) in (inputs or {}).items():
            self.links.append((source, output, name, input_name))
        return name

    def group(
        self, title: str, bounding: tuple[int, int, int, int], color: str = "#3f789e"
    ) -> None:
        self.groups.append({"title": title, "bounding": list(bounding), "color": color})


def find_chromium() -> str:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        raise FileNotFoundError("No Chromium found: apt-get install chromium, or set CHROMIUM.")
    return path


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
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.goto(self.url)
        self.page.wait_for_function(
            "() => { const a = window.app ?? window.comfyAPI?.app?.app;"
            " return a && a.graph && window.LiteGraph &&"
            " LiteGraph.registered_node_types['KSampler'] !== undefined; }",
            timeout=120_000,
        )
        self.page.wait_for_timeout(1500)
        return self

    def __exit__(self, *exc: object) -> None:
        self._browser.close()
        self._playwright.stop()

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

    def screenshot(self, path: Path) -> None:
        self.page.screenshot(path=str(path))


def read_workflow(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
