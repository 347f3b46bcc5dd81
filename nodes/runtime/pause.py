"""Pause a training: its process saves the full state and leaves, so that other prompts get the
device; going on later queues the very same prompt again, which resumes exactly.

`hold` waits until somebody asks to go on; `yield` goes on by itself after the prompts that are
waiting. ComfyUI sees the paused prompt as interrupted; the one that goes on has an id of its own,
which is settled when the pause is asked for: it is in the answer, in the panel, and in the status
messages of the paused prompt's history, so whoever waited for the old one can follow.
"""

import logging
import threading
import time
import uuid
from typing import Any

from .panel import ACTIVE, PANELS, Panel

log = logging.getLogger(__name__)

WENT_ON = "troupe_paused"  # message in the history of a paused prompt: {"run", "next_prompt_id"}
HISTORY_SECONDS = 60  # how long a paused prompt may take to reach the history

_held: dict[str, tuple] = {}  # run id of a paused panel -> its entry of ComfyUI's queue


class PauseError(RuntimeError):
    """A training cannot be paused, or cannot go on; the message says what to do."""


class PauseRequested(Exception):
    """Raised while a training is watched, when the page or a script has asked for a pause."""


def check_pause(panel: Panel) -> None:
    """Raises PauseRequested if `panel` shall pause."""
    if panel.pause:
        raise PauseRequested


def keep_prompt(panel: Panel) -> None:
    """Remember the running prompt of a panel that is being paused, or queue it again at once."""
    entry = _running(panel.prompt_id)
    if entry is None:
        log.warning("The paused prompt is not in ComfyUI's queue any more: queue it by hand.")
        return
    threading.Thread(target=_note_in_history, args=(panel,), daemon=True).start()
    if panel.pause == "yield":
        _queue_again(entry, panel.next_prompt_id)
        panel.end("paused", "Waiting for other prompts")
    else:
        for run in [run for run in _held if PANELS.find(run) is None]:  # replaced by newer ones
            del _held[run]
        _held[panel.run] = entry
        panel.end("paused", "Paused")


def ask(run: str, pause: str) -> str:
    """Ask a running training to pause, or a paused one to go on (`pause` = "").

    Returns:
        Id of the prompt that goes on.

    Raises:
        PauseError: there is nothing to pause or to go on with.
    """
    panel = PANELS.find(run)
    if panel is None:
        raise PauseError(
            "This training is not known any more: ComfyUI was started anew, or another run of the "
            "node replaced it. Queue the same prompt: it goes on from the saved state."
        )
    if pause:
        if panel.status not in ACTIVE:
            raise PauseError("This training is not running.")
        panel.pause = pause
        panel.next_prompt_id = panel.next_prompt_id or str(uuid.uuid4())
        panel.text = "Saving the state ..."
        panel.send()
        return panel.next_prompt_id
    entry = _held.pop(run, None)
    if entry is None:
        raise PauseError("This training is not paused.")
    panel.text = "Queued"
    panel.send()
    _queue_again(entry, panel.next_prompt_id)
    return panel.next_prompt_id


def _server() -> Any:
    from server import PromptServer

    return PromptServer.instance


def _running(prompt_id: str) -> tuple | None:
    queue = _server().prompt_queue
    with queue.mutex:
        entries = list(queue.currently_running.values())
    return next((e for e in entries if e[1] == prompt_id), None)


def _queue_again(entry: tuple, prompt_id: str) -> None:
    """The same prompt under a new id behind all that wait; outputs it has made stay cached."""
    server = _server()
    number, server.number = server.number, server.number + 1
    server.prompt_queue.put((number, prompt_id, *entry[2:]))


def _note_in_history(panel: Panel) -> None:
    """Say in the paused prompt's history which prompt goes on, as soon as it has one."""
    queue, deadline = _server().prompt_queue, time.monotonic() + HISTORY_SECONDS
    while time.monotonic() < deadline:
        with queue.mutex:
            status = (queue.history.get(panel.prompt_id) or {}).get("status")
            if status:
                about = {"run": panel.run, "next_prompt_id": panel.next_prompt_id}
                status["messages"] = [*status["messages"], (WENT_ON, about)]
                return
        time.sleep(0.1)


def add_routes() -> None:
    """GET /troupe/training (all panels) and POST /troupe/training/{pause,resume}."""
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:  # nodes are looked at without a server
        return

    @server.routes.get("/troupe/training")
    async def show(request: web.Request) -> web.Response:
        return web.json_response([panel.whole() for panel in PANELS.all()])

    async def change(request: web.Request, pausing: bool) -> web.Response:
        try:
            body = await request.json()
            run, mode = str(body["run"]), str(body.get("then", "hold"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return web.json_response({"error": 'Send {"run": ID}.'}, status=400)
        if mode not in ("hold", "yield"):
            return web.json_response({"error": "then: hold or yield."}, status=400)
        try:
            return web.json_response({"error": "", "prompt_id": ask(run, mode if pausing else "")})
        except PauseError as error:
            return web.json_response({"error": str(error)}, status=409)

    @server.routes.post("/troupe/training/pause")
    async def pause(request: web.Request) -> web.Response:
        return await change(request, True)

    @server.routes.post("/troupe/training/resume")
    async def resume(request: web.Request) -> web.Response:
        return await change(request, False)
