"""Changes inputs of a prompt by name: "TITLE.INPUT=VALUE", with a node's title, id or class."""

import copy
import json
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from .client import Client
from .convert import declared_inputs
from .errors import WorkflowError


def set_inputs(
    prompt: dict[str, Any], assignments: Iterable[str], client: Client
) -> dict[str, Any]:
    """A copy of an API-format prompt with the assignments carried out, in order.

    Text stays text where the node has text now; elsewhere a value is read as JSON if it is JSON.

    Args:
        client: asked for a node's inputs where the prompt leaves an optional one out.

    Raises:
        WorkflowError: no node, or more than one, is meant; the node has no such input.
    """
    changed = copy.deepcopy(prompt)
    for assignment in assignments:
        place, equals, text = assignment.partition("=")
        if not equals or "." not in place:
            raise WorkflowError(f"--set {assignment!r}: write TITLE.INPUT=VALUE.")
        node, name = _find(changed, place, client)
        node["inputs"][name] = _value(text, node["inputs"].get(name), name)
    return changed


def title(node: dict[str, Any]) -> str:
    """What the editor shows above a node; "" where the prompt does not say."""
    meta = node.get("_meta")
    return str(meta.get("title") or "") if isinstance(meta, dict) else ""


def _find(prompt: dict[str, Any], place: str, client: Client) -> tuple[dict[str, Any], str]:
    """The node and the input that "TITLE.INPUT" means; both may hold dots."""
    named = None
    for who, name in _splits(place):
        found = _nodes(prompt, who)
        if len(found) > 1:
            ids = ", ".join(key for key, _ in found)
            raise WorkflowError(f"{who!r} is the name of several nodes: use an id ({ids}) instead.")
        if found:
            named = found[0][1], who, name
            if name in _inputs(named[0], client):
                return named[0], name
    if named is None:
        raise WorkflowError(f"No node is called {place.rpartition('.')[0]!r}; {_names(prompt)}.")
    node, who, name = named
    have = _inputs(node, client)
    close = get_close_matches(name, have, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(have)}."
    raise WorkflowError(f"{who!r} has no input {name!r}: {hint}")


def _splits(place: str) -> Iterator[tuple[str, str]]:
    at = place.find(".")
    while at >= 0:
        yield place[:at], place[at + 1 :]
        at = place.find(".", at + 1)


def _nodes(prompt: dict[str, Any], who: str) -> list[tuple[str, dict[str, Any]]]:
    """Nodes of that title, else of that id, else of that class."""
    for key_of in (lambda key, node: title(node), lambda key, node: key):
        if found := [(key, node) for key, node in prompt.items() if key_of(key, node) == who]:
            return found
    return [(key, node) for key, node in prompt.items() if node["class_type"] == who]


def _inputs(node: dict[str, Any], client: Client) -> list[str]:
    """Inputs in the prompt, and those that the node's class declares."""
    described = client.object_info(node["class_type"]).get(node["class_type"], {})
    return list(dict.fromkeys([*node["inputs"], *declared_inputs(described)]))


def _names(prompt: dict[str, Any]) -> str:
    names = [repr(title(node)) if title(node) else f"{key} ({node['class_type']})"
             for key, node in prompt.items()]  # fmt: skip
    return "there are " + ", ".join(names)


def _value(text: str, now: Any, name: str) -> Any:
    if isinstance(now, str):
        return text

    def refuse(constant: str) -> None:
        raise WorkflowError(f"--set {name}: {constant} is no number that ComfyUI takes.")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise WorkflowError(f"--set {name}: the value is nested too deeply.") from None
    except ValueError:
        return text
