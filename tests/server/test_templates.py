"""The workflows as ComfyUI offers them in its template browser."""

import io
import json
import re
from urllib.parse import quote

import pytest
from PIL import Image

from tools.server import PACK_FOLDER

WORDS = re.compile(r"[A-Z][A-Za-z]+( [A-Za-z]+)+")


@pytest.fixture(scope="module")
def listed(server) -> list[str]:
    return server.client.get_json("/workflow_templates")[PACK_FOLDER]


def test_every_file_behind_the_list_is_there(server, listed):
    assert len(listed) >= 5 and len(set(listed)) == len(listed)
    for name in listed:
        address = f"/api/workflow_templates/{PACK_FOLDER}/{quote(name)}"
        workflow = json.loads(server.client.get(f"{address}.json"))
        assert workflow["nodes"] and workflow["groups"]
        with Image.open(io.BytesIO(server.client.get(f"{address}.jpg"))) as picture:
            assert picture.format == "JPEG" and min(picture.size) >= 384


@pytest.mark.parametrize("folder", [PACK_FOLDER, "troupe"])
def test_titles_are_for_people(server, listed, folder):
    """The front end takes them from the translations, by the names of folder and file."""
    texts = server.client.get_json("/i18n")["en"]["templateWorkflows"]
    titles, descriptions = texts["template"][folder], texts["templateDescription"][folder]
    assert set(titles) == set(descriptions) == set(listed)
    assert all(WORDS.fullmatch(title) for title in titles.values())
