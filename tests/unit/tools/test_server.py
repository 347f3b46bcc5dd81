"""Folders that a ComfyUI of our own is shown."""

import os

import pytest

from tools.server import link_folder


@pytest.mark.skipif(os.name == "nt", reason="Windows may not allow symbolic links")
def test_a_folder_is_linked_even_where_nothing_is_yet(tmp_path):
    source, link = tmp_path / "models", tmp_path / "studio" / "models"
    source.mkdir()
    link_folder(source, link)
    assert link.is_symlink(), "a copy of somebody's models would take their disk"
    (source / "new").touch()
    assert (link / "new").is_file()
    link_folder(source, link)
    assert link.is_symlink() and (source / "new").is_file()
