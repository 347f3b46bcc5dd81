"""What tests share: a running ComfyUI, ComfyUI's modules in this process, the pack, a sandbox.

`server` is a real ComfyUI on the CPU with nano's models; `comfy` and `pack` are in process. Both
start when the first test asks for them, and serve the whole session.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from demo.nano import NanoFiles, build_nano
from tools.inprocess import ROOT, import_comfyui, load_pack
from tools.server import ComfyServer


class RootIsNoPackage:
    """Keeps pytest from importing the pack's __init__.py: it is ComfyUI's entry, not a package."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector):
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(RootIsNoPackage())
    # On some processors (AMD EPYC for one) MKL rounds by where a tensor happens to lie in memory;
    # tests that compare bits want the order of the numbers alone to count, here and in processes.
    os.environ.setdefault("MKL_CBWR", "AUTO")
    share_cores(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def share_cores(workers: int) -> None:
    """Give each of the test session's processes, and the servers it starts, its part of the CPU."""
    if workers > 1:
        threads = max(1, (os.cpu_count() or 1) // workers)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def nano_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ComfyUI models folder with all files of nano. Do not write into it."""
    folder = tmp_path_factory.mktemp("nano") / "models"
    build_nano(folder)
    return folder


@pytest.fixture(scope="session")
def nano(nano_models: Path) -> NanoFiles:
    """The files of nano, one by one."""
    from demo.nano import nano_files

    return nano_files(nano_models)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, nano_models: Path) -> Iterator[ComfyServer]:
    """A running ComfyUI with the pack and nano's models; see tools.server and tools.client."""
    base = tmp_path_factory.mktemp("comfy")
    shutil.copytree(nano_models, base / "models")
    with ComfyServer(base, cpu=True) as running:
        yield running


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """ComfyUI's modules in this process, on the CPU, with a base directory of their own.

    Attributes: path, base_dir, folder_paths, and nodes (core's nodes.py).
    """
    return import_comfyui(tmp_path_factory.mktemp("comfy-in-process"))


@pytest.fixture(scope="session")
def pack(comfy: SimpleNamespace) -> ModuleType:
    """The pack's root module, loaded as ComfyUI loads it; `pack.nodes` is our nodes package."""
    return load_pack()


@dataclass(frozen=True)
class Sandbox:
    """ComfyUI's folders for one test, and a secret beside them that nothing may reach."""

    root: Path
    input: Path
    output: Path
    temp: Path
    models: Path
    datasets: Path
    outside: Path  # a folder beside the others
    secret: Path  # a file in it


MODEL_FOLDERS = ("checkpoints", "loras", "controlnet", "clip_vision", "ipadapter", "pose")


@pytest.fixture
def sandbox(
    comfy: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    """folder_paths pointed at fresh folders for one test."""
    box = Sandbox(
        root=tmp_path,
        secret=tmp_path / "outside" / "secret.txt",
        **{n: tmp_path / n for n in ("input", "output", "temp", "models", "datasets", "outside")},
    )
    for folder in (box.input, box.output, box.temp, box.models, box.datasets, box.outside):
        folder.mkdir()
    box.secret.write_text("secret", "ascii")
    paths = comfy.folder_paths
    monkeypatch.setattr(paths, "input_directory", str(box.input))
    monkeypatch.setattr(paths, "output_directory", str(box.output))
    monkeypatch.setattr(paths, "temp_directory", str(box.temp))
    monkeypatch.setattr(paths, "models_dir", str(box.models))
    known = dict(paths.folder_names_and_paths)
    known["datasets"] = ([str(box.datasets)], set())
    for name in MODEL_FOLDERS:
        (box.models / name).mkdir()
        extensions = known[name][1] if name in known else {".safetensors"}
        known[name] = ([str(box.models / name)], extensions)
    known["loras"][0].append(str(box.output / "loras"))  # as ComfyUI's main.py does
    monkeypatch.setattr(paths, "folder_names_and_paths", known)
    paths.filename_list_cache.clear()
    yield box
    paths.filename_list_cache.clear()
