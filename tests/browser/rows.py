"""Sketches of a few nodes, for tests that do not look at layouts."""

from tools.sketch import Layout, Sketch

APART_PX = 30


def row() -> Sketch:
    """An empty sketch that takes nodes at once."""
    sketch = Sketch()
    sketch.stage()
    sketch.section("", "")
    return sketch


def side_by_side(sketch: Sketch) -> Layout:
    """All nodes in one row, in the order in which they were added."""
    boxes, left = {}, 0.0
    for node in sketch.nodes:
        width, height = node["size"]
        boxes[node["name"]] = (left, 0.0, width, height or 300)
        left += width + APART_PX
    return Layout(boxes, [], {})
