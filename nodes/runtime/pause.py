"""Pause a training: its process saves the full state and leaves, so that other prompts get the
device; going on later queues the very same prompt again, which resumes exactly.

`hold` waits until somebody asks to go on; `yield` goes on by itself after the prompts that are
waiting. ComfyUI sees the paused prompt as interrupted.
"""

import logging
import uuid
from typing import Any

from .panel import ACTIVE, PANELS, Panel

log = logging.getLogger(__name__)

_held: dict[str, tuple] = {}  # run id of a paused panel -> its entry of ComfyUI's queue


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
    if panel.pause == "yield":
        _queue_again(entry)
        panel.end("paused", "Waiting for other prompts")
    else:
        for run in [run for run in _held if PANELS.find(run) is None]:  # replaced by newer ones
            del _held[run]
        _held[panel.run] = entry
        panel.end("paused", "Paused")


def ask(run: str, pause: str) -> str:
    """Ask a running training to pause, or a paused one to go on (`pause` = "").

    Returns:
        What went wrong, "" if nothing did.
    """
    panel = PANELS.find(run)
    if panel is None:
        return "This training is not known any more."
    if pause:
        if panel.status not in ACTIVE:
            return "This training is not running."
        panel.pause = pause
        panel.text = "Saving the state ..."
        panel.send()
        return ""
    entry = _held.pop(run, None)
    if entry is None:
        return "This training is not paused."
    panel.text = "Queued"
    panel.send()
    _queue_again(entry)
    return ""


def _server() -> Any:
    from server import PromptServer

    return PromptServer.instance


def _running(prompt_id: str) -> tuple | None:
    queue = _server().prompt_queue
    with queue.mutex:
        entries = list(queue.currently_running.values())
    return next((e for e in entries if e[1] == prompt_id), None)


def _queue_again(entry: tuple) -> None:
    """The same prompt under a new id behind all that wait; outputs it has made stay cached."""
    server = _server()
    number, server.number = server.number, server.number + 1
    server.prompt_queue.put((number, str(uuid.uuid4()), *entry[2:]))


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
        problem = ask(run, mode if pausing else "")
        return web.json_response({"error": problem}, status=409 if problem else 200)

    @server.routes.post("/troupe/training/pause")
    async def pause(request: web.Request) -> web.Response:
        return await change(request, True)

    @server.routes.post("/troupe/training/resume")
    async def resume(request: web.Request) -> web.Response:
        return await change(request, False)
