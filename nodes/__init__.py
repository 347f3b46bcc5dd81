"""The nodes of the pack, in menu order. Only this package touches ComfyUI."""

from comfy_api.v0_0_2 import ComfyExtension, io

from . import (
    adapter_options,
    captions,
    data_options,
    dataset,
    learning_options,
    pose,
    reference,
    regions,
    scene,
    training,
    video,
)
from .runtime.guard import guarded
from .runtime.pause import add_routes

_IN_MENU_ORDER: list[type[io.ComfyNode]] = [
    *dataset.NODES,
    *captions.NODES,
    *training.NODES,
    *adapter_options.NODES,
    *data_options.NODES,
    *learning_options.NODES,
    *pose.NODES,
    *regions.NODES,
    *scene.NODES,
    *reference.NODES,
    *video.NODES,
]
NODES = [guarded(node) for node in _IN_MENU_ORDER]


class TroupeExtension(ComfyExtension):
    async def on_load(self) -> None:
        add_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> TroupeExtension:
    return TroupeExtension()
