"""Folders that a ComfyUI of our own is shown."""

from tests.systems import needs_links
from tools.server import link_folder


@needs_links
def test_a_folder_is_linked_even_where_nothing_is_yet(tmp_path):
    source, link = tmp_path / "models", tmp_path / "studio" / "models"
    source.mkdir()
    link_folder(source, link)
    assert link.is_symlink(), "a copy of somebody's models would take their disk"
    (source / "new").touch()
    assert (link / "new").is_file()
    link_folder(source, link)
    assert link.is_symlink() and (source / "new").is_file()
