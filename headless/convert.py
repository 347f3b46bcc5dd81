"""Workflow files: from the editor's format (0.4) to the API format that POST /prompt takes.

The same conversion as the editor's own "Export (API)": widget values are read by position, in the
order of the node's declared inputs, with the extra slots that the editor inserts after seeds and
upload combos. `object_info` is what GET /object_info answers.
"""

from collections.abc import Iterator
from typing import Any

from .errors import WorkflowError

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
DECORATION = {"Note", "MarkdownNote"}
MUTED, BYPASSED = 2, 4  # modes of a node
SEEDS = {"seed", "noise_seed"}  # the editor adds its "control after generate" to these by name


def to_api(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """The API-format prompt of a workflow without subgraphs.

    Muted nodes are left out.

    Raises:
        WorkflowError: a node type is unknown, has more widget values than widgets, or something is
            in it that only the editor resolves (subgraphs, bypassed nodes, reroutes).
    """
    try:
        return _converted(workflow, object_info)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise WorkflowError(f"it is not as the editor saves it: {error!r}") from None


def _converted(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    muted = {str(n["id"]) for n in workflow["nodes"] if n.get("mode") == MUTED}
    links = {link[0]: (str(link[1]), link[2]) for link in workflow["links"]}
    prompt: dict[str, Any] = {}
    for node in sorted(workflow["nodes"], key=lambda n: n["order"]):
        if node["type"] in DECORATION or str(node["id"]) in muted:
            continue
        info = object_info.get(node["type"])
        if info is None:
            raise WorkflowError(
                f"node {node['id']}: {node['type']!r} is no node of this ComfyUI; subgraphs, "
                "reroutes and primitives are known to the editor alone"
            )
        if node.get("mode") == BYPASSED:
            raise WorkflowError(f"node {node['id']} ({node['type']}) is bypassed")
        values = node.get("widgets_values") or []
        inputs = dict(_widget_values(node, info, values))
        for slot in node.get("inputs", ()):
            if slot.get("link") is not None:
                source, index = links[slot["link"]]
                if source in muted:
                    raise WorkflowError(f"node {node['id']} ({node['type']}) needs a muted node")
                inputs[slot["name"]] = [source, index]
        prompt[str(node["id"])] = {
            "inputs": inputs,
            "class_type": node["type"],
            "_meta": {"title": node.get("title") or info.get("display_name") or node["type"]},
        }
    return prompt


def declared_inputs(info: dict[str, Any]) -> list[str]:
    """The names of all inputs a node's description has, those below a dynamic one included."""
    names = []
    for section in ("required", "optional"):
        for name, declared in info.get("input", {}).get(section, {}).items():
            names.append(name)
            options = declared[1] if len(declared) > 1 else {}
            if declared[0] == "COMFY_DYNAMICCOMBO_V3":
                for option in options["options"]:
                    inner = declared_inputs({"input": option["inputs"]})
                    names += [f"{name}.{below}" for below in inner]
    return names


def _widget_values(node: dict, info: dict, values: list) -> Iterator[tuple[str, Any]]:
    queue = list(values)
    for section in ("required", "optional"):
        for name, declared in info["input"].get(section, {}).items():
            yield from _read(node, name, declared, queue)
    if queue:
        raise WorkflowError(
            f"node {node['id']} ({node['type']}): {len(queue)} widget values too many"
        )


def _read(node: dict, name: str, declared: list, queue: list) -> Iterator[tuple[str, Any]]:
    kind, options = declared[0], (declared[1] if len(declared) > 1 else {})
    if kind == "COMFY_DYNAMICCOMBO_V3":
        key = _pop(node, name, queue)
        yield name, key
        chosen = next((o["inputs"] for o in options["options"] if o["key"] == key), {})
        for section in ("required", "optional"):
            for inner, inner_declared in chosen.get(section, {}).items():
                yield from _read(node, f"{name}.{inner}", inner_declared, queue)
        return
    is_widget = isinstance(kind, list) or kind in WIDGET_TYPES
    if not is_widget or options.get("forceInput"):
        return
    yield name, _pop(node, name, queue)
    if options.get("control_after_generate") or (kind == "INT" and name in SEEDS):
        _pop(node, "control_after_generate", queue)
    if any(key.endswith("_upload") and options[key] for key in options):
        _pop(node, "upload", queue)


def _pop(node: dict, name: str, queue: list) -> Any:
    if not queue:
        raise WorkflowError(f"node {node['id']} ({node['type']}): no widget value for {name!r}")
    return queue.pop(0)
