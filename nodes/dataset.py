"""Nodes of the menu section troupe/dataset."""

from comfy_api.v0_0_2 import io

NODES: list[type[io.ComfyNode]] = []
