"""A workflow described by names, and where its nodes come to lie.

A sketch is stages from left to right; a stage is sections (groups) one below the other; a section
is columns of nodes. Nobody writes positions: `arrange` makes them of the sizes that the nodes were
seen to take in the editor, after a run.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VERSION = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)[1]
WIDTH = 340
TITLE = 30  # height of a node's title bar, which lies above its position
# Distances: between nodes, columns, sections, stages; inside a section's edge; its own title.
NODES_GAP, COLUMNS_GAP, SECTIONS_GAP, STAGES_GAP = 30, 60, 70, 110
EDGE, HEADING = 24, 54
LANE = 14  # between wires that run along a section's top

Box = tuple[float, float, float, float]  # x, y, width, height
Size = tuple[float, float]


@dataclass
class Section:
    title: str
    color: str
    columns: list[list[str]] = field(default_factory=lambda: [[]])


@dataclass
class Sketch:
    """Nodes are added to the newest column of the newest section."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[tuple[str, str, str, str]] = field(default_factory=list)
    stages: list[list[Section]] = field(default_factory=list)

    def stage(self) -> None:
        self.stages.append([])

    def section(self, title: str, color: str) -> None:
        self.stages[-1].append(Section(title, color))

    def column(self) -> None:
        self.stages[-1][-1].columns.append([])

    def node(
        self,
        name: str,
        type_: str,
        *,
        box: tuple[int, int] = (WIDTH, 0),
        title: str | None = None,
        models: list[dict[str, str]] | None = None,
        inputs: dict[str, tuple[str, str]] | None = None,
        **widgets: Any,
    ) -> str:
        """Add a node; `inputs` maps an input name to (source node name, output name).

        Args:
            box: width, and least height for nodes that show pictures, in pixels.
        """
        self.nodes.append(
            {
                "name": name,
                "type": type_,
                "size": list(box),
                "title": title,
                "widgets": widgets,
                "properties": _properties(type_, models),
            }
        )
        self.stages[-1][-1].columns[-1].append(name)
        for input_name, (source, output) in (inputs or {}).items():
            self.links.append((source, output, name, input_name))
        return name


@dataclass(frozen=True)
class Layout:
    """Where everything lies; positions are those of ComfyUI, below a node's title bar.

    `bends` has, for each link that would run over other nodes, two points of a way around them.
    """

    nodes: dict[str, Box]
    groups: list[tuple[str, str, Box]]
    bends: dict[int, tuple[tuple[float, float], tuple[float, float]]]


def arrange(sketch: Sketch, sizes: Mapping[str, Size]) -> Layout:
    """Lay a sketch out; `sizes` are (width, height without the title bar) of its nodes."""
    lanes = _lanes(sketch)
    boxes: dict[str, Box] = {}
    groups, corners, left = [], {}, 0.0
    for stage in sketch.stages:
        y, widest = 0.0, max(_width(section, sizes) for section in stage)
        for section in stage:
            y += LANE * len(lanes.get(id(section), ()))
            width = _width(section, sizes)
            x = left + widest - width  # at the right, where the next stage takes its wires
            height = _columns(section, sizes, x, y, boxes)
            groups.append((section.title, section.color, (x, y, width, height)))
            corners[id(section)] = x, y
            y += height + SECTIONS_GAP
        left += widest + STAGES_GAP
    bends = {}
    for owner, links in lanes.items():
        for number, link in enumerate(links):
            source, _, target, _ = sketch.links[link]
            section_left, y = corners[owner]
            y -= LANE * (number + 1)
            start = boxes[source][0] + boxes[source][2] + COLUMNS_GAP / 4
            if start < section_left:  # from another stage: turn off just before this section
                start = section_left - STAGES_GAP / 2
            bends[link] = (start + LANE * number, y), (boxes[target][0] - COLUMNS_GAP / 3, y)
    return Layout(boxes, groups, bends)


def _columns(
    section: Section, sizes: Mapping[str, Size], left: float, top: float, boxes: dict[str, Box]
) -> float:
    """Place a section's nodes; the section's height."""
    x, lowest = left + EDGE, top
    for column in section.columns:
        y = top + HEADING
        for name in column:
            width, height = sizes[name]
            boxes[name] = (x, y + TITLE, width, height)
            y += TITLE + height + NODES_GAP
        lowest = max(lowest, y - NODES_GAP)
        x += max(sizes[name][0] for name in column) + COLUMNS_GAP
    return lowest + EDGE - top


def _width(section: Section, sizes: Mapping[str, Size]) -> float:
    columns = [max(sizes[name][0] for name in column) for column in section.columns]
    return sum(columns) + COLUMNS_GAP * (len(columns) - 1) + 2 * EDGE


def _lanes(sketch: Sketch) -> dict[int, list[int]]:
    """For each section the links that go along its top, because other columns lie between."""
    place, number = {}, 0
    for stage in sketch.stages:
        widest = max(len(section.columns) for section in stage)
        for section in stage:
            for i, column in enumerate(section.columns):
                for name in column:
                    first = i == 0
                    place[name] = (number + i, section, first)
        number += widest
    lanes: dict[int, list[int]] = {}
    for index, (source, _, target, _) in enumerate(sketch.links):
        (start, own, _), (end, section, first) = place[source], place[target]
        if own is not section and first:
            continue  # from an earlier stage into a first column: nothing lies between
        if end - start > 1:
            lanes.setdefault(id(section), []).append(index)
    return lanes


def _properties(type_: str, models: list[dict[str, str]] | None) -> dict[str, Any]:
    """Which pack a node is from, so that an editor without it can offer to install it."""
    ours = type_.startswith("Troupe")
    pack = {"cnr_id": "troupe", "ver": VERSION} if ours else {"cnr_id": "comfy-core"}
    return (pack if type_ != "MarkdownNote" else {}) | ({"models": models} if models else {})
