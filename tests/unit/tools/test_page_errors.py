"""Errors on the page of an editor: the ones of other packs are none of ours."""

import pytest

from tools.editor import foreign
from tools.server import PACK_FOLDER

OURS = f"http://127.0.0.1:8188/extensions/{PACK_FOLDER}/js/panel.js:12:5"
THEIRS = "http://127.0.0.1:8188/extensions/another_pack/main.js:3:1"
CORE = "http://127.0.0.1:8188/extensions/core/widgetInputs.js:1:1"
PAGE = "http://127.0.0.1:8188/assets/index-abc.js:1:1"


@pytest.mark.parametrize(
    ("stack", "expected"),
    [(f"TypeError: x\n at f ({THEIRS})\n at g ({PAGE})", True)]
    + [(f"TypeError: x\n at f ({one})", False) for one in (OURS, CORE, PAGE)]
    + [(f"TypeError: x\n at f ({THEIRS})\n at g ({OURS})", False), (None, False), ("", False)],
)
def test_only_errors_of_other_packs_are_foreign(stack, expected):
    assert foreign(stack) is expected
