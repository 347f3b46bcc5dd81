"""A small client for ComfyUI's HTTP API; standard library only.

Example:
    client = Client("http://127.0.0.1:8188")
    outputs = client.run(api_workflow)  # {node_id: {"images": [{filename, subfolder, type}]}}
    data = client.view(**outputs["9"]["images"][0])
"""

import json
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen


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


class Client:
    def __init__(self, url: str, timeout: float = 120.0):
        self.url = url.rstrip("/")
        self.timeout = timeout  # seconds that one request may take

    # -- requests ---------------------------------------------------------------------------------

    def get(self, path: str, **query: Any) -> bytes:
        """The body of GET `path`. Raises HttpError on any status but success."""
        return self._send(Request(f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")))

    def get_json(self, path: str, **query: Any) -> Any:
        return json.loads(self.get(path, **query))

    def post_json(self, path: str, value: Any) -> Any:
        """POST a value as JSON; the decoded answer, or None when it has no body."""
        headers = {"Content-Type": "application/json"}
        request = Request(f"{self.url}{path}", json.dumps(value).encode(), headers, method="POST")
        body = self._send(request)
        return json.loads(body) if body else None

    def _send(self, request: Request) -> bytes:
        try:
            with urlopen(request, timeout=self.timeout) as answer:
                return answer.read()
        except HTTPError as error:
            what = f"{request.get_method()} {request.selector}"
            raise HttpError(what, error.code, error.read()) from None

    # -- prompts ----------------------------------------------------------------------------------

    def run(self, prompt: dict[str, Any], timeout: float = 600.0) -> dict[str, dict[str, Any]]:
        """Queue an API-format prompt and wait: what its output nodes showed, by node id.

        Raises:
            PromptError: it was refused. ExecutionError: a node failed.
            ExecutionInterrupted: it was stopped. TimeoutError: not done in `timeout` seconds.
        """
        return self.wait(self.queue(prompt), timeout)

    def queue(self, prompt: dict[str, Any], client_id: str = "", **extra_data: Any) -> str:
        """Queue a prompt and return its id; any node error refuses the whole prompt.

        Args:
            client_id: whose websocket gets the events (see tools.events).
            extra_data: for example extra_pnginfo={"workflow": ...}, which savers embed.
        """
        prompt_id = str(uuid.uuid4())
        body = {"prompt": prompt, "prompt_id": prompt_id, "client_id": client_id}
        try:
            answer = self.post_json("/prompt", {**body, "extra_data": extra_data})
        except HttpError as error:
            raise _prompt_error(error) from None
        if answer.get("node_errors"):  # ComfyUI would run the sound part of the graph
            self.cancel(prompt_id)
            raise PromptError("Parts of the prompt are invalid", answer["node_errors"])
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 600.0) -> dict[str, dict[str, Any]]:
        """Wait for a queued prompt; see `run`."""
        deadline = time.monotonic() + timeout
        pause = 0.05
        while not (entry := self.history(prompt_id)):
            if time.monotonic() > deadline:
                self.cancel(prompt_id)
                raise TimeoutError(f"Prompt {prompt_id} was not done after {timeout:.0f} s.")
            if not self.is_queued(prompt_id) and not self.history(prompt_id):
                raise ExecutionInterrupted(f"Prompt {prompt_id} is no longer in the queue.")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        _raise_failure(entry)
        return entry["outputs"]

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The record of a finished prompt (outputs, status, meta); None while it has none."""
        return self.get_json(f"/history/{prompt_id}").get(prompt_id)

    def is_queued(self, prompt_id: str) -> bool:
        queue = self.get_json("/queue")
        items = [*queue["queue_running"], *queue["queue_pending"]]
        return any(item[1] == prompt_id for item in items)

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop the running prompt (only if it is `prompt_id`, where given)."""
        self.post_json("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue and stop it if it runs."""
        self.post_json("/queue", {"delete": [prompt_id]})
        self.interrupt(prompt_id)

    def free(self) -> None:
        """Unload models and forget cached results before the next prompt."""
        self.post_json("/free", {"unload_models": True, "free_memory": True})

    # -- files and facts --------------------------------------------------------------------------

    def object_info(self, node_class: str | None = None) -> dict[str, Any]:
        """ComfyUI's description of all nodes, or {node_class: description}."""
        return self.get_json(f"/object_info/{node_class}" if node_class else "/object_info")

    def upload_image(self, path: Path, subfolder: str = "", overwrite: bool = True) -> str:
        """Put a file into ComfyUI's input folder; returns the name that loader nodes take."""
        boundary = uuid.uuid4().hex
        fields = {"type": "input", "subfolder": subfolder, "overwrite": str(overwrite).lower()}
        start = f"--{boundary}\r\nContent-Disposition: form-data; name="
        text = "".join(f'{start}"{key}"\r\n\r\n{value}\r\n' for key, value in fields.items())
        text += f'{start}"image"; filename="{path.name}"\r\n\r\n'
        body = text.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        request = Request(f"{self.url}/upload/image", body, headers, method="POST")
        saved = json.loads(self._send(request))
        return f"{saved['subfolder']}/{saved['name']}" if saved["subfolder"] else saved["name"]

    def view(self, filename: str, subfolder: str = "", type: str = "output", **_: Any) -> bytes:
        """The content of a file that a node reported in its outputs."""
        return self.get("/view", filename=filename, subfolder=subfolder, type=type)


def _prompt_error(error: HttpError) -> ClientError:
    try:
        answer = json.loads(error.body)
        return PromptError(answer["error"]["message"], answer.get("node_errors") or {})
    except (ValueError, KeyError, TypeError):
        return error


def _raise_failure(entry: dict[str, Any]) -> None:
    status = entry.get("status") or {}
    if status.get("status_str") == "success":
        return
    for event, data in status.get("messages", []):
        if event == "execution_error":
            raise ExecutionError(data)
        if event == "execution_interrupted":
            raise ExecutionInterrupted(f"Stopped at node {data.get('node_id')}.")
    raise ClientError(f"The prompt ended with status {status}.")
