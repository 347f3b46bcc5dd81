"""A client for ComfyUI's HTTP API; standard library only."""

import http.client
import json
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from .errors import (
    ClientError,
    ExecutionInterrupted,
    HttpError,
    PromptError,
    PromptTimeout,
    ServerLost,
    failure,
)

NO_ANSWER = (OSError, http.client.HTTPException)  # refused, reset, timed out, cut off
BLOCK_BYTES = 1 << 20


class Client:
    """One ComfyUI server.

    Args:
        url: as http://127.0.0.1:8188.
        timeout: seconds that one request may take.
        patience_s: seconds for which `wait` bears a server that does not answer.
    """

    def __init__(self, url: str, timeout: float = 120.0, patience_s: float = 60.0):
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.patience_s = patience_s

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
            ClientError: it was refused, failed, was stopped, is not done in `timeout` seconds, or
                the server went away; see the tree in headless/__init__.
        """
        return self.wait(self.queue(prompt), timeout)

    def queue(
        self,
        prompt: dict[str, Any],
        client_id: str = "",
        *,
        prompt_id: str | None = None,
        **extra_data: Any,
    ) -> str:
        """Queue a prompt and return its id; any node error refuses the whole prompt.

        Args:
            client_id: whose websocket gets the events.
            prompt_id: an id of your own, by which it can be cancelled if the answer gets lost.
            extra_data: for example extra_pnginfo={"workflow": ...}, which savers embed.
        """
        prompt_id = prompt_id or str(uuid.uuid4())
        body = {"prompt": prompt, "prompt_id": prompt_id, "client_id": client_id}
        try:
            answer = self.post_json("/prompt", {**body, "extra_data": extra_data})
        except HttpError as error:
            raise PromptError.from_answer(error) from None
        if answer.get("node_errors"):  # ComfyUI would run the sound part of the graph
            self.cancel(prompt_id)
            raise PromptError("Parts of the prompt are invalid", answer["node_errors"])
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 600.0) -> dict[str, dict[str, Any]]:
        """Wait for a queued prompt; see `run`. A server that is silent for a while is borne."""
        deadline = time.monotonic() + timeout
        answered, lost_contact, pause = time.monotonic(), False, 0.05
        while True:
            try:
                entry = self.history(prompt_id)
                known = entry or self.is_queued(prompt_id) or self.history(prompt_id)
                answered = time.monotonic()
            except NO_ANSWER as error:
                lost_contact = True
                if time.monotonic() - answered > self.patience_s:
                    raise _silent(self.url, error) from None
                time.sleep(1.0)
                continue
            if entry:
                break
            if not known:
                raise _forgotten(prompt_id, lost_contact)
            if time.monotonic() > deadline:
                self.cancel(prompt_id)
                raise PromptTimeout(f"Prompt {prompt_id} was not done after {timeout:.0f} s.")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        if problem := failure(entry):
            raise problem
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

    # -- files and facts --------------------------------------------------------------------------

    def object_info(self, node_class: str | None = None) -> dict[str, Any]:
        """ComfyUI's description of all nodes, or {node_class: description}."""
        return self.get_json(f"/object_info/{node_class}" if node_class else "/object_info")

    def view(self, filename: str, subfolder: str = "", type: str = "output", **_: Any) -> bytes:
        """The content of a file that a node reported in its outputs."""
        return self.get("/view", filename=filename, subfolder=subfolder, type=type)

    def download(self, item: dict[str, Any], path: Path) -> None:
        """Fetch a file that a node reported to `path`, which appears when it is complete."""
        keys = {"filename": "", "subfolder": "", "type": "output"}
        query = urlencode({key: item.get(key, usual) for key, usual in keys.items()})
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            with urlopen(f"{self.url}/view?{query}", timeout=self.timeout) as answer:
                with open(part, "xb") as file:
                    while block := answer.read(BLOCK_BYTES):
                        file.write(block)
            part.replace(path)
        except HTTPError as error:
            raise HttpError(f"GET /view?{query}", error.code, error.read()) from None
        finally:
            part.unlink(missing_ok=True)


def _silent(url: str, error: Exception) -> ClientError:
    return ServerLost(f"No answer from ComfyUI at {url} any more ({error}).")


def _forgotten(prompt_id: str, lost_contact: bool) -> ClientError:
    if lost_contact:
        return ServerLost(
            f"ComfyUI was restarted and has forgotten prompt {prompt_id}: queue it again."
        )
    return ExecutionInterrupted(f"Prompt {prompt_id} is no longer in the queue: it was deleted.")
