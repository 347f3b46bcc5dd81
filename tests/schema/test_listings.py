"""No entry of ComfyUI's folders, however odd, takes a node away."""

import json
import os
import stat
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tools.inprocess import ROOT
from training.entries import is_link
from training.folders import list_folders

# Real permissions do not stop the superuser, so the system calls are made to refuse.
PROBE = """
import asyncio, json, logging, os, pathlib, sys
sys.path.insert(0, {root!r})
from tools.inprocess import import_comfyui, load_pack
import_comfyui(pathlib.Path({base!r}))
logging.basicConfig(stream=sys.stderr)

def refusing(call):
    def refuse(path=".", *rest):
        if os.path.basename(os.fspath(path)) == "locked":
            raise PermissionError(13, "Permission denied", path)
        return call(path, *rest)
    return refuse

os.scandir, os.path.getmtime = refusing(os.scandir), refusing(os.path.getmtime)
pack = load_pack()
nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
choices = {{}}
for node in nodes:
    for group in node.INPUT_TYPES().values():
        choices |= {{f"{{node.GET_SCHEMA().node_id}}.{{k}}": v for k, v in group.items()}}
print(json.dumps([[n.GET_SCHEMA().node_id for n in nodes], choices], default=str))
"""


@pytest.fixture
def odd(tmp_path):
    """Folders as ComfyUI has them, with everything that a listing could stumble over."""
    places = ["input", "datasets", "output/loras", "models/loras", "models/captioners"]
    places += ["models/checkpoints", "models/pose", "models/ipadapter"]
    for place in (tmp_path / p for p in places):
        (place / "good").mkdir(parents=True)
        for name in ("a.png", "a.safetensors", "config.json", "people.json"):
            (place / "good" / name).touch()
        (place / "loop").symlink_to("loop")
        (place / "loop.safetensors").symlink_to("loop.safetensors")
        (place / "good" / "up").symlink_to(place)
        (place / "gone").symlink_to("nowhere")
        (place / "locked").mkdir()
        strange = os.path.join(os.fsencode(place), b"n\xffame")
        os.mkdir(strange)
        for name in (b"a.png", b"a.safetensors", b"\xfe.json", b"config.json"):
            open(os.path.join(strange, name), "wb").close()
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that are no text")
def test_the_pack_loads_whatever_lies_in_the_folders(odd, pack):
    script = PROBE.format(root=str(ROOT), base=str(odd))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ids, choices = json.loads(done.stdout.splitlines()[-1])
    assert ids == [node.GET_SCHEMA().node_id for node in pack.nodes.NODES]
    assert choices["TroupeLoadDataset.folder"][1]["options"] == ["good", "good [datasets]"]
    assert choices["TroupeLoadPose.pose_file"][1]["options"] == [
        *("good/config.json", "good/people.json", "good/")
    ]
    assert choices["TroupeCaptionImages.model"][1]["options"] == ["good"]
    for where in ("TroupeTrainLora.checkpoint", "TroupeAdapterOptions.start_from"):
        listed = choices[where][1]["options"]
        assert "good/a.safetensors" in listed and not any("\udcff" in name for name in listed)
    said = done.stderr
    assert "input/loop is not listed: it cannot be looked at (Too many levels" in said
    assert "input/locked is not listed: the folder is unreadable (Permission denied)" in said
    assert "datasets/n\\xffame is not listed: its name is not UTF-8" in said
    assert said.count("input/loop is not listed") == 1  # not once for every node and page
    assert "models/loras cannot be listed whole" in said and "locked" in said


def test_a_link_upwards_is_not_walked_in_circles(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "x.png").touch()
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "shared").symlink_to(tmp_path / "a")
    assert list_folders(tmp_path, (".png",)) == ["a", "shared"]


def test_an_entry_that_cannot_be_looked_at_is_named(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").touch()
    (tmp_path / "loop").symlink_to("loop")
    skipped = {}
    assert list_folders(tmp_path, (".png",), skipped.__setitem__) == ["set"]
    assert list(skipped) == ["loop"] and "cannot be looked at" in skipped["loop"]


class Entry(SimpleNamespace):
    """A DirEntry of Windows before Python 3.12, which does not know the word junction."""

    name = "entry"

    def is_symlink(self) -> bool:
        return self.mode == stat.S_IFLNK

    def stat(self, *, follow_symlinks: bool = True):
        assert not follow_symlinks  # what it leads to has no tag
        return SimpleNamespace(st_reparse_tag=self.tag, st_mode=self.mode)


@pytest.mark.parametrize(
    ("mode", "tag", "link"),
    [
        (stat.S_IFDIR, 0, False),
        (stat.S_IFDIR, 0xA0000003, True),  # a junction
        (stat.S_IFDIR, 0x9000001A, False),  # a folder that OneDrive keeps in the cloud
        (stat.S_IFLNK, 0xA000000C, True),
    ],
)
def test_junctions_are_links_on_every_python(mode, tag, link):
    assert is_link(Entry(mode=mode, tag=tag)) is link
