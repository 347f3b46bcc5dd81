"""How the nodes plug into ComfyUI: paths, progress, socket types, processes, patches."""
