"""The pack's own client for ComfyUI (see headless), and what only tests and tools ask of it."""

import json
import uuid
from pathlib import Path
from urllib.request import Request

import headless
from headless import (
    ClientError,
    ExecutionError,
    ExecutionInterrupted,
    HttpError,
    PromptError,
)

__all__ = [
    "Client",
    "ClientError",
    "ExecutionError",
    "ExecutionInterrupted",
    "HttpError",
    "PromptError",
]


class Client(headless.Client):
    def free(self) -> None:
        """Unload models and forget cached results before the next prompt."""
        self.post_json("/free", {"unload_models": True, "free_memory": True})

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
