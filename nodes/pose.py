"""Nodes of the menu section troupe/pose."""

from comfy_api.v0_0_2 import io

NODES: list[type[io.ComfyNode]] = []
