"""A Chromium for the tests of the page: a Debian machine's root installs it, else set CHROMIUM."""

import os
import shutil
import subprocess

import pytest

from tools.editor import Editor, find_chromium


@pytest.fixture(scope="session")
def chromium() -> str:
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
