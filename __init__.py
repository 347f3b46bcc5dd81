"""ComfyUI-Troupe: train a cast, dress it, pose it, set the stage, film it.

ComfyUI reads two names here: WEB_DIRECTORY (help pages and the front-end extension) and
comfy_entrypoint (the nodes). Everything else lives in nodes/ and the three engines.
"""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
