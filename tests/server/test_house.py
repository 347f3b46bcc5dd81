"""The server itself: it starts with the pack, and nothing of it outlives who started it."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError

import pytest

from tests.server.processes import runs
from tests.systems import needs_signals
from tools import server as house
from tools.client import Client
from tools.server import COMPANION_FOLDER, PACK_FOLDER, ROOT, ComfyServer, ServerError

# A node folder that starts a process of its own when it is loaded, as training does when it runs.
BREEDER = """
import os, pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(__file__).with_name("child.pid").write_text(str(child.pid), "ascii")
NODE_CLASS_MAPPINGS = {}
"""

STARTER = """
import json, signal, sys, time
from pathlib import Path
from tools.server import ComfyServer
signal.signal(signal.SIGINT, signal.default_int_handler)  # background shells ignore it
with ComfyServer(Path(sys.argv[1]), cpu=True, pack=Path(sys.argv[2])) as server:
    print(json.dumps([server.pid, server.url]), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def breeder(tmp_path: Path) -> Path:
    folder = tmp_path / "breeder"
    folder.mkdir()
    (folder / "__init__.py").write_text(BREEDER, "ascii")
    return folder


def child_of(breeder: Path) -> int:
    return int((breeder / "child.pid").read_text("ascii"))


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + 30
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if runs(pid)]


def assert_silent(url: str) -> None:
    with pytest.raises((URLError, ConnectionError)):
        Client(url).get("/system_stats")


def test_pack_and_companion_load(server):
    log = server.log_text()
    loaded = log.partition("Import times for custom nodes")[2].partition("Starting server")[0]
    assert PACK_FOLDER in loaded and COMPANION_FOLDER in loaded
    assert PACK_FOLDER in log.partition("Prestartup times")[2].partition("Total VRAM")[0]
    assert "PRESTARTUP FAILED" not in log
    for complaint in ("IMPORT FAILED", "Cannot import", "Error while calling comfy_entrypoint"):
        assert complaint not in log


def test_the_pack_adds_its_nodes_and_help(server):
    ours = {n: i for n, i in server.client.object_info().items() if n.startswith("Troupe")}
    assert ours
    for name, info in ours.items():
        assert info["python_module"] == f"custom_nodes.{PACK_FOLDER}"
        assert server.client.get(f"/extensions/{PACK_FOLDER}/docs/{name}.md")
    translated = server.client.get_json("/i18n")["en"]["nodeDefs"]
    assert set(ours) <= set(translated)


def test_a_stopped_server_leaves_nothing(tmp_path, breeder):
    with ComfyServer(tmp_path / "base", cpu=True, pack=breeder) as server:
        pids = server.pid, child_of(breeder)
        assert all(map(runs, pids))
        url = server.url
    assert not any(map(runs, pids))
    assert_silent(url)
    assert server.pid is None


def interrupt(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGINT)


@pytest.mark.parametrize(
    "end", [subprocess.Popen.kill, pytest.param(interrupt, marks=needs_signals)]
)
def test_a_dead_starter_leaves_nothing(tmp_path, breeder, end):
    command = [sys.executable, "-c", STARTER, str(tmp_path / "base"), str(breeder)]
    starter = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pid, url = json.loads(starter.stdout.readline())
    pids = pid, child_of(breeder)
    assert all(map(runs, pids))
    end(starter)
    starter.communicate(timeout=60)
    wait_until_gone(*pids)
    assert_silent(url)


def test_a_taken_port_is_left_for_another(tmp_path, monkeypatch):
    """Also: another folder name for the pack, and spaces and any script in every path."""
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252:strict")  # the code page of a Windows
    monkeypatch.setenv("PYTHONUTF8", "0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = iter([taken.getsockname()[1], house._free_port()])
        monkeypatch.setattr(house, "_free_port", lambda: next(ports))
        with ComfyServer(
            tmp_path / "a base, Zo\xeb \u65e5\u672c", cpu=True, folder="troupe, renamed"
        ) as server:
            assert str(server.base_dir) in server.log_text()
            assert not server.url.endswith(str(taken.getsockname()[1]))
            modules = {i["python_module"] for i in server.client.object_info().values()}
            assert "custom_nodes.troupe, renamed" in modules


def test_a_server_that_cannot_start_shows_why(tmp_path):
    server = ComfyServer(tmp_path, cpu=True, options=["--no-such-option"])
    with pytest.raises(ServerError, match="unrecognized arguments: --no-such-option"):
        server.start()
    assert server.pid is None


def test_no_answer_from_another_program_is_taken_for_ours(tmp_path, server):
    other = ComfyServer(tmp_path, cpu=True)
    other.url = server.url
    assert server._answers() and not other._answers()
