"""What can go wrong between a workflow file and its result."""

import json
from typing import Any


class ClientError(RuntimeError):
    """ComfyUI refused a request, or a prompt did not end well."""


class HttpError(ClientError):
    """An answer that is no success; `status` and `body` are what ComfyUI sent."""

    def __init__(self, what: str, status: int, body: bytes):
        super().__init__(f"{what} gave HTTP {status}: {body[:500].decode('utf-8', 'replace')}")
        self.status = status
        self.body = body


class PromptError(ClientError):
    """The prompt did not pass validation; `node_errors` is ComfyUI's account per node id."""

    def __init__(self, message: str, node_errors: dict[str, Any]):
        self.node_errors = node_errors
        super().__init__("; ".join([message, *self.messages()]))

    @classmethod
    def from_answer(cls, error: HttpError) -> ClientError:
        """What a refusal of POST /prompt says; the error itself where it says something else."""
        try:
            answer = json.loads(error.body)
            return cls(answer["error"]["message"], answer.get("node_errors") or {})
        except (ValueError, KeyError, TypeError):
            return error

    def messages(self) -> list[str]:
        """One line per fault: node class, what is wrong, ComfyUI's details."""
        return [
            f"{entry.get('class_type')}: {error.get('message')} ({error.get('details')})"
            for entry in self.node_errors.values()
            for error in entry.get("errors", [])
        ]


class ExecutionError(ClientError):
    """A node raised while the prompt ran."""

    def __init__(self, details: dict[str, Any]):
        self.node_id = str(details.get("node_id"))
        self.node_type = str(details.get("node_type"))
        self.message = str(details.get("exception_message", "")).strip()
        self.exception_type = str(details.get("exception_type"))
        self.traceback = "".join(details.get("traceback") or [])
        super().__init__(f"{self.node_type} (node {self.node_id}): {self.message}")


class ExecutionInterrupted(ClientError):
    """The prompt was stopped by a user, or taken out of the queue."""


class ServerLost(ClientError):
    """ComfyUI does not answer, or was restarted and has forgotten the prompt."""


class PromptTimeout(ClientError, TimeoutError):
    """The prompt was not done in the time given; it has been cancelled."""


class WorkflowError(ClientError):
    """A file is no workflow that can be queued, or an input that was to be set is not there."""


def failure(entry: dict[str, Any]) -> ClientError | None:
    """Why the prompt of an entry of ComfyUI's history did not succeed; None if it did."""
    status = entry.get("status") or {}
    if status.get("status_str") == "success":
        return None
    for event, data in status.get("messages", []):
        if event == "execution_error":
            return ExecutionError(data)
        if event == "execution_interrupted":
            return ExecutionInterrupted(f"Stopped at node {data.get('node_id')}.")
    return ClientError(f"The prompt ended with status {status}.")
