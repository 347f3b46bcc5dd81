"""What a run tells the world: one JSON object per line.

| event | fields |
|---|---|
| plan | run, digest, checkpoint, pictures, buckets, steps, device, precision, ... |
| phase | name (latents, text, model, train, validation, sample, export), done, total |
| step | step, steps, loss, average, learning_rate, grad_norm, seconds, memory_mb |
| sample | step, prompt, path, base (the twin without the LoRA, or null) |
| validation | step, loss, by_timestep, pictures, best (whether it is the lowest so far) |
| checkpoint | step, path |
| warning | message |
| error | kind, message |
| paused, resumed | step |
| stopped | step, steps, saved |
| done | lora, steps, losses, plot, samples, reused, skipped_steps, embeddings |

Every event also has `event`, `time` (seconds since 1970), and `job` once the job file was read: the
sha256 of what was read, so that who wrote the file knows whose LoRA it is that is done.
"""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from .wholefile import in_words


class Events:
    """Writes events to a stream, and to a file once there is one."""

    def __init__(self, stream: IO[str] | None = None):
        self._streams: list[IO[str]] = [stream] if stream else []
        self._lock = threading.Lock()
        self._file: IO[str] | None = None
        self._listeners: list[Callable[[str, dict], None]] = []
        self._marks: dict[str, Any] = {}

    def listen(self, listener: Callable[[str, dict], None]) -> None:
        """Call listener(event, fields) for all further events."""
        self._listeners.append(listener)

    def mark(self, **fields: Any) -> None:
        """Put these fields into all further events."""
        self._marks.update(fields)

    def keep_in(self, path: Path) -> None:
        """Append all further events to `path` too; one that cannot be opened is said."""
        try:
            self._file = open(path, "a", encoding="utf-8")
        except OSError as error:
            self.warn(f"{path.name} is not written: {in_words(error)}.")
        else:
            self._streams.append(self._file)

    def fileno(self) -> int:
        """Descriptor of the stream, for a process that speaks in our place."""
        return self._streams[0].fileno()

    def close(self) -> None:
        """Close the file; the stream stays open."""
        file, self._file = self._file, None
        if file in self._streams:
            self._streams.remove(file)
        if file:
            try:
                file.close()
            except OSError:  # what the full disk did not take
                pass

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event; a reader that has gone away does not stop the run."""
        values = {"event": event, "time": round(time.time(), 3), **self._marks, **fields}
        line = json.dumps(_plain(values), allow_nan=False) + "\n"
        for listener in self._listeners:
            listener(event, fields)
        with self._lock:
            for stream in list(self._streams):
                try:
                    stream.write(line)
                    stream.flush()
                except (OSError, ValueError):  # the parent died, or the disk is full
                    self._streams.remove(stream)

    def warn(self, message: str) -> None:
        """Something the user should know that does not stop the run."""
        self.emit("warning", message=message)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and value - value != 0:  # JSON knows neither inf nor nan
        return None
    return value
