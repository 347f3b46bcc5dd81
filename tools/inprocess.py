"""ComfyUI's modules and the pack in the own process: for tests and for tools that read schemas."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from .comfyui import find_comfyui

ROOT = Path(__file__).resolve().parent.parent


def import_comfyui(base_dir: Path) -> SimpleNamespace:
    """Import ComfyUI on the CPU with `base_dir` as its base directory; once per process.

    Returns:
        path (ComfyUI's folder), base_dir, and the modules folder_paths and nodes (core's).
    """
    path = find_comfyui()
    sys.path.insert(0, str(path))  # before the repository: `nodes` must be core's nodes.py
    import comfy.options

    comfy.options.args_parsing = False  # our arguments are not ComfyUI's
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = str(base_dir)
    for name in ("input", "output", "temp", "models", "datasets"):
        (base_dir / name).mkdir(parents=True, exist_ok=True)
    import folder_paths

    import nodes

    if Path(nodes.__file__).parent != path:
        raise ImportError(f"nodes was imported from {nodes.__file__} before ComfyUI's.")
    return SimpleNamespace(path=path, base_dir=base_dir, folder_paths=folder_paths, nodes=nodes)


def load_pack(folder: Path = ROOT) -> ModuleType:
    """Load a node folder as ComfyUI does: by file, under a name no `import` could spell."""
    name = f"{folder}/custom_nodes/pack.1".replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
