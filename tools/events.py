"""ComfyUI's websocket events of one client id, collected in a thread. Needs aiohttp (ComfyUI's).

with Events(server.url) as events:
    prompt_id = server.client.queue(prompt, client_id=events.client_id)
    events.wait_for(lambda e: e.type == "progress" and e.data["value"] >= 2)
    server.client.interrupt(prompt_id)
"""

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """A text event with its data, or type "binary" with the raw message as data (previews).

    `at` is when it arrived, in seconds of time.monotonic().
    """

    type: str
    data: Any
    at: float


class Events:
    """A context manager; `on_event` is called with each event, in the listening thread."""

    def __init__(self, url: str, on_event: Callable[[Event], None] | None = None):
        self.client_id = uuid.uuid4().hex
        self._on_event = on_event
        self._url = f"{url.rstrip('/')}/ws?clientId={self.client_id}"
        self._events: list[Event] = []
        self._arrived = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task | None = None
        self._thread = threading.Thread(target=self._listen, daemon=True, name="comfy-events")

    def __enter__(self) -> "Events":
        self._thread.start()
        self.wait_for(lambda e: e.type == "status", timeout=60)  # sent to each new client
        return self

    def __exit__(self, *_: Any) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)

    def seen(self, type_: str | None = None) -> list[Event]:
        """All events so far (of one type), oldest first."""
        with self._arrived:
            return [e for e in self._events if type_ in (None, e.type)]

    def wait_for(self, wanted: Callable[[Event], bool], timeout: float = 120.0) -> Event:
        """The first event, past or coming, that `wanted` accepts.

        Raises:
            TimeoutError: none came within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        checked = 0
        with self._arrived:
            while True:
                for event in self._events[checked:]:
                    if wanted(event):
                        return event
                checked = len(self._events)
                if not self._arrived.wait(deadline - time.monotonic()):
                    types = sorted({e.type for e in self._events})
                    raise TimeoutError(f"No such event within {timeout} s; seen types: {types}.")

    def _listen(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._receive())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _receive(self) -> None:
        import aiohttp

        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(self._url, max_msg_size=0) as socket:
                async for message in socket:
                    self._store(message)

    def _store(self, message: Any) -> None:
        if isinstance(message.data, bytes):
            event = Event("binary", message.data, time.monotonic())
        elif isinstance(message.data, str):
            content = json.loads(message.data)
            event = Event(content["type"], content.get("data"), time.monotonic())
        else:
            return
        with self._arrived:
            self._events.append(event)
            self._arrived.notify_all()
        if self._on_event:
            self._on_event(event)
