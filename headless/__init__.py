"""Drives a ComfyUI over its HTTP API, without a browser; standard library only.

The way of a prompt: a workflow file is read (`files`: API format, or the editor's own, which
`convert` turns into it), inputs are set by name (`inputs`), a `Client` queues it, waits and fetches
what was made. `python -m headless WORKFLOW.json` does all of it and ends with an exit code for each
way in which a prompt can end.

    client = Client("http://127.0.0.1:8188")
    outputs = client.run(prompt)  # {node_id: {"images": [{filename, subfolder, type}]}}
    data = client.view(**outputs["9"]["images"][0])

All errors are ClientErrors:

    ClientError
      HttpError             an answer that is no success
      PromptError           ComfyUI refused the prompt, or a part of it
      ExecutionError        a node failed
      ExecutionInterrupted  stopped, or taken out of the queue
      ServerLost            no answer any more, or restarted meanwhile
      PromptTimeout         not done in time (a TimeoutError, too)
      WorkflowError         a file that is no prompt, an input that no node has
"""

from .client import Client
from .convert import to_api
from .errors import (
    ClientError,
    ExecutionError,
    ExecutionInterrupted,
    HttpError,
    PromptError,
    PromptTimeout,
    ServerLost,
    WorkflowError,
)
from .files import read_prompt
from .inputs import set_inputs

__all__ = [
    "Client",
    "ClientError",
    "ExecutionError",
    "ExecutionInterrupted",
    "HttpError",
    "PromptError",
    "PromptTimeout",
    "ServerLost",
    "WorkflowError",
    "read_prompt",
    "set_inputs",
    "to_api",
]
