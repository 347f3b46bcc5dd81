"""What conditioning costs: drawing poses against controlnet-aux."""

from collections.abc import Iterator

from . import Row
from ._pose import draw_rows


def rows() -> Iterator[Row]:
    yield from draw_rows()
