"""The nodes of the pack, in menu order. Only this package touches ComfyUI."""

from comfy_api.v0_0_2 import ComfyExtension, io

from . import dataset, pose, reference, regions, scene, training, video

NODES: list[type[io.ComfyNode]] = [
    *dataset.NODES,
    *training.NODES,
    *pose.NODES,
    *regions.NODES,
    *scene.NODES,
    *reference.NODES,
    *video.NODES,
]


class TroupeExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> TroupeExtension:
    return TroupeExtension()
