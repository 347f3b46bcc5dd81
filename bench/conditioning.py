"""What conditioning costs: drawing poses, and references while sampling."""

from collections.abc import Iterator

from . import Row
from ._pose import draw_rows
from ._references import reference_rows


def rows() -> Iterator[Row]:
    yield from draw_rows()
    yield from reference_rows()
