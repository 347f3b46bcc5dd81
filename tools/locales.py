"""Writes locales/en/nodeDefs.json, what translators start from, out of the node schemas.

`python -m tools.locales` rewrites the file; a test asserts that it is up to date.
"""

import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from .inprocess import ROOT, import_comfyui, load_pack

TARGET = ROOT / "locales" / "en" / "nodeDefs.json"


def node_definitions(pack: ModuleType) -> dict[str, Any]:
    """{node id: display name, description, texts of inputs and outputs} of a loaded pack."""
    return {s.node_id: _definition(s) for s in (node.GET_SCHEMA() for node in pack.nodes.NODES)}


def as_text(definitions: dict[str, Any]) -> str:
    return json.dumps(definitions, indent=2, ensure_ascii=False) + "\n"


def named_inputs(inputs: list, prefix: str = "") -> list[tuple[str, Any]]:
    """(name in a prompt, input) of every input, those inside dynamic combos included."""
    found = []
    for item in inputs:
        name = f"{prefix}{item.id}"
        found.append((name, item))
        for option in getattr(item, "options", None) or []:
            found += named_inputs(getattr(option, "inputs", []), f"{name}.")
    return found


def _definition(schema: Any) -> dict[str, Any]:
    texts = {"display_name": schema.display_name, "description": schema.description}
    # The front end looks names up with dots replaced, since dots separate its own keys.
    inputs = {n.replace(".", "_"): _texts(item) for n, item in named_inputs(schema.inputs)}
    outputs = {str(i): _texts(item) for i, item in enumerate(schema.outputs)}
    return texts | {"inputs": inputs, "outputs": outputs}


def _texts(item: Any) -> dict[str, str]:
    name = item.display_name or item.id.replace("_", " ")
    texts = {"name": name, "tooltip": item.tooltip}
    return {key: text for key, text in texts.items() if text}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        import_comfyui(Path(folder))
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        TARGET.write_text(as_text(node_definitions(load_pack())), "utf-8", newline="\n")
    print(TARGET.relative_to(ROOT), file=sys.stderr)
