"""The workflows as ComfyUI offers them in its template browser."""

import io
import json
from urllib.parse import quote

import pytest
from PIL import Image

from tools.server import PACK_FOLDER


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
