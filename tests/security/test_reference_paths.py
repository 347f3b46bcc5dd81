"""The name of an adapter never leads out of the model folder, whatever a prompt says."""

import importlib
import os

import pytest
import torch
from safetensors.torch import save_file

from tests.systems import needs_links

STATE = {
    "image_proj.proj.weight": torch.zeros(8, 8),
    "image_proj.proj.bias": torch.zeros(8),
    "image_proj.norm.weight": torch.ones(4),
    "image_proj.norm.bias": torch.zeros(4),
    "ip_adapter.1.to_k_ip.weight": torch.zeros(4, 4),
    "ip_adapter.1.to_v_ip.weight": torch.zeros(4, 4),
}
ASTRAY = [
    "../outside/secret.safetensors",
    "a/../../outside/secret.safetensors",
    "/etc/passwd",
    "/dev/zero",
    "C:\\secret.safetensors",
    "\\\\host\\secret.safetensors",
    "a\0.safetensors",
    "secret.txt",
    "folder",
    "folder/",
    "",
    ".",
    None,
]


@pytest.fixture
def node(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.reference").TroupeLoadIPAdapter


@pytest.mark.parametrize("name", ASTRAY)
def test_names_that_lead_elsewhere(node, sandbox, name):
    save_file(STATE, sandbox.outside / "secret.safetensors")
    folder = sandbox.models / "ipadapter"
    (folder / "folder").mkdir()
    (folder / "secret.txt").write_text("secret", "ascii")
    absolute = sandbox.outside / "secret.safetensors"
    for tried in (name, str(absolute)):
        with pytest.raises(ValueError, match="^ipadapter_name .* is no adapter file") as caught:
            node.execute(ipadapter_name=tried)
        assert "\n" not in str(caught.value)


@needs_links
def test_names_inside_are_read(node, sandbox):
    folder = sandbox.models / "ipadapter" / "sdxl"
    folder.mkdir()
    save_file(STATE, folder / "a.safetensors")
    os.symlink(folder / "a.safetensors", folder / "link.safetensors")  # people do link models
    for name in ("sdxl/a.safetensors", "sdxl/link.safetensors"):
        (adapter,) = node.execute(ipadapter_name=name).result
        assert adapter.name == name and set(adapter) == {"image_proj", "ip_adapter"}
        first = node.fingerprint_inputs(ipadapter_name=name)
        os.utime(folder / "a.safetensors", ns=(1, 1))
        assert node.fingerprint_inputs(ipadapter_name=name) != first
        os.utime(folder / "a.safetensors", ns=(2, 2))
