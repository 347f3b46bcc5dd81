"""A Chromium for the tests of the page: a Debian machine's root installs it, else set CHROMIUM."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tools.editor import Editor, find_chromium
from tools.lock import file_lock


@pytest.fixture(scope="session")
def chromium() -> str:
    with file_lock(Path(tempfile.gettempdir()) / "troupe-chromium.lock"):  # one test process only
        try:
            return find_chromium()
        except FileNotFoundError:
            if shutil.which("apt-get") and os.geteuid() == 0:
                subprocess.run(["apt-get", "update", "-qq"], check=True)
                subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], check=True)
            return find_chromium()


@pytest.fixture(scope="module")
def editor(server, chromium):
    with Editor(server.url) as page:
        yield page
