"""The nodes of the pack, in menu order. Only this package touches ComfyUI."""

import logging
from importlib import import_module

from comfy_api.v0_0_2 import ComfyExtension, io

from ..training.packages import why_not
from .runtime.guard import guarded
from .runtime.pause import add_routes

SECTIONS = (
    "dataset",
    "captions",
    "training",
    "adapter_options",
    "data_options",
    "learning_options",
    "pose",
    "regions",
    "scene",
    "reference",
    "video",
    "miniature",
)

log = logging.getLogger(__name__)


def _load(sections: tuple[str, ...]) -> list[type[io.ComfyNode]]:
    """The nodes of all sections whose packages can be imported; the others are named."""
    found, missing = [], {}
    for section in sections:
        try:
            found += import_module(f".{section}", __name__).NODES
        except Exception as error:
            reason = why_not(error)
            if not reason:  # our own mistake
                raise
            missing.setdefault(reason, []).append(section)
    for reason, names in missing.items():
        log.error("Troupe's nodes of %s are left out. %s", ", ".join(names), reason)
    return found


def _describable(nodes: list[type[io.ComfyNode]]) -> list[type[io.ComfyNode]]:
    """The nodes whose schema can be made now; ComfyUI would drop all of them for a single one."""
    kept = []
    for node in nodes:
        try:
            node.GET_SCHEMA()
            kept.append(node)
        except Exception:
            log.exception("Troupe's node %s cannot be described and is left out.", node.__name__)
    return kept


NODES: list[type[io.ComfyNode]] = [guarded(node) for node in _load(SECTIONS)]


def _tell_pages() -> None:
    """What pages show of nodes; where a package is missing, `_load` has named it."""
    try:
        from .about import TELLERS
        from .runtime.asked import add_route
        from .runtime.errors import name_errors
    except Exception as error:
        if not why_not(error):
            raise
        return
    name_errors()
    add_route(TELLERS)


class TroupeExtension(ComfyExtension):
    async def on_load(self) -> None:
        add_routes()
        _tell_pages()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return _describable(NODES)


async def comfy_entrypoint() -> TroupeExtension:
    return TroupeExtension()
