"""What importing the pack costs and needs, in fresh interpreters beside a real ComfyUI."""

import json
import subprocess
import sys

from tools.inprocess import ROOT

LATE = ["diffusers", "peft", "controlnet_aux", "kornia", "accelerate", "transformers"]

# ComfyUI itself imports some of these; what counts is what the pack adds. The blocker refuses the
# import whether or not the package is installed.
PROBE = """
import asyncio, json, pathlib, sys
sys.path.insert(0, {root!r})
from tools.inprocess import import_comfyui, load_pack
import_comfyui(pathlib.Path({base!r}))

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

for name in [n for n in sys.modules if n.partition(".")[0] in {blocked!r}]:
    del sys.modules[name]
sys.meta_path.insert(0, Blocker())
before = set(sys.modules)
pack = load_pack()
added = sorted({{name.partition(".")[0] for name in set(sys.modules) - before}})
nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
ids = [node.GET_SCHEMA().node_id for node in nodes]
print(json.dumps([added, ids]))
"""


def probe(base, blocked: list[str]) -> tuple[list[str], list[str], str]:
    """(top-level modules that importing the pack added, ids of the registered nodes, the log)."""
    script = PROBE.format(root=str(ROOT), base=str(base), blocked=blocked)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    added, ids = json.loads(done.stdout.splitlines()[-1])
    return added, ids, done.stderr


def test_the_pack_imports_no_training_library(tmp_path):
    added, ids, _ = probe(tmp_path, [])
    assert ids
    assert not set(added) & set(LATE)


def test_all_nodes_register_without_any_of_them(tmp_path, pack):
    """None is needed at import, so neither is any single one."""
    _, ids, _ = probe(tmp_path, LATE)
    assert ids == [node.GET_SCHEMA().node_id for node in pack.nodes.NODES]


def test_without_a_package_the_other_nodes_are_there_and_one_sentence_says_why(tmp_path, pack):
    """Only training reads YAML and checks settings with pydantic."""
    nodes = [node.GET_SCHEMA() for node in pack.nodes.NODES]
    others = [node.node_id for node in nodes if node.category != "troupe/training"]
    _, ids, said = probe(tmp_path, ["yaml"])  # read when a node runs
    assert ids == [node.node_id for node in nodes] and "Troupe's" not in said
    _, ids, said = probe(tmp_path, ["pydantic"])
    assert set(others) <= set(ids) < {node.node_id for node in nodes}
    (line,) = [line for line in said.splitlines() if "Troupe's nodes of" in line]
    assert "nodes of dataset, " in line and "pip install pydantic" in line
    assert "Traceback" not in said
