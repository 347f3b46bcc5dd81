"""Layouts of workflows: nothing overlaps, everything lies in its group, whatever the sizes."""

import random
from itertools import combinations

import pytest

from tools.sketch import TITLE, arrange
from tools.sketches import SKETCHES


def overlap(a, b) -> bool:
    return (min(a[0] + a[2], b[0] + b[2]) > max(a[0], b[0])
            and min(a[1] + a[3], b[1] + b[3]) > max(a[1], b[1]))  # fmt: skip


def inside(a, b) -> bool:
    return (a[0] >= b[0] and a[1] >= b[1]
            and a[0] + a[2] <= b[0] + b[2] and a[1] + a[3] <= b[1] + b[3])  # fmt: skip


@pytest.mark.parametrize("title", SKETCHES)
def test_any_sizes_find_room(title):
    draws = random.Random(7)
    sketch = SKETCHES[title]()
    sizes = {n["name"]: (draws.randint(200, 600), draws.randint(40, 1200)) for n in sketch.nodes}
    layout = arrange(sketch, sizes)
    drawn = [(x, y - TITLE, w, h + TITLE) for x, y, w, h in layout.nodes.values()]
    groups = [box for _, _, box in layout.groups]
    assert not [pair for pair in combinations(drawn, 2) if overlap(*pair)]
    assert not [pair for pair in combinations(groups, 2) if overlap(*pair)]
    for box in drawn:
        assert sum(inside(box, group) for group in groups) == 1
    for bends in layout.bends.values():
        for x, y in bends:
            assert not any(overlap((x, y, 1, 1), box) for box in drawn)
