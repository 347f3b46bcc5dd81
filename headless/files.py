"""Workflow files: API format as they are, the editor's format converted or refused in words."""

import json
from pathlib import Path
from typing import Any

from .client import Client
from .convert import to_api
from .errors import WorkflowError

MOST_BYTES = 64 * 2**20


def read_prompt(path: Path, client: Client) -> dict[str, Any]:
    """The API-format prompt that a file holds.

    Args:
        client: asked for the descriptions of the nodes where the file is the editor's.

    Raises:
        WorkflowError: it cannot be read, is neither of the two formats, or cannot be converted.
    """
    data = _parsed(path)
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict):
        data = data["prompt"]  # a whole body of POST /prompt
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        try:
            return to_api(data, client.object_info())
        except WorkflowError as error:
            raise WorkflowError(
                f"{path} is saved by the editor and cannot be converted here ({error}). In the "
                "editor choose Export (API) and run that file."
            ) from None
    fault = _fault(data)
    if fault:
        raise WorkflowError(
            f"{path} is no workflow: {fault}. Export (API) in the editor writes one."
        )
    return data


def _parsed(path: Path) -> Any:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise WorkflowError(f"{path} is larger than any workflow ({MOST_BYTES >> 20} MB).")
        return json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_no_constant)
    except OSError as error:
        raise WorkflowError(f"{path} cannot be read: {error.strerror}.") from None
    except RecursionError:
        raise WorkflowError(f"{path} is nested too deeply for a workflow.") from None
    except ValueError as error:  # no UTF-8, no JSON
        raise WorkflowError(f"{path} is not JSON: {error}.") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number that ComfyUI takes")


def _fault(data: Any) -> str:
    if not isinstance(data, dict) or not data:
        return "it holds no nodes"
    for key, node in data.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            return f"node {key!r} has no class_type"
        if not isinstance(node.get("inputs"), dict):
            return f"node {key!r} has no inputs"
    return ""
