"""What the demo reports: seconds per stage, peak memory of the server, and the facts of a film."""

import threading
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

# Which stage of the story a node belongs to; nodes not named here are "prepare".
STAGES = {
    "TroupeTrainLora": "train",
    "TroupeComposeScene": "compose",
    "TroupeApplyLoras": "compose",
    "KSampler": "sample",
    "VAEDecode": "sample",
    "TroupeSaveVideo": "film",
}


class PeakMemory:
    """Peak resident MB of a process and its children, sampled while the context is open."""

    def __init__(self, pid: int, interval_s: float = 0.25) -> None:
        self.pid, self.interval_s, self.peak_mb = pid, interval_s, 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        process = psutil.Process(self.pid)
        while not self._stop.wait(self.interval_s):
            total = 0
            try:
                for each in (process, *process.children(recursive=True)):
                    total += each.memory_info().rss
            except psutil.Error:
                continue  # a child ended between listing and asking
            self.peak_mb = max(self.peak_mb, total / 2**20)


@dataclass
class Stopwatch:
    """Seconds per stage, from the server's `executing` events."""

    prompt: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    _stage: str | None = None
    _since: float = field(default_factory=time.monotonic)

    def node_started(self, node_id: str | None, at: float) -> None:
        """A node began at `at` (monotonic seconds); None means that the prompt ended."""
        if self._stage is not None:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + at - self._since
        self._since = at
        if node_id is None:
            self._stage = None
            return
        class_type = self.prompt[node_id]["class_type"]
        self._stage = STAGES.get(class_type, "prepare")
        self.order.append(class_type)


def film_facts(path: Path) -> dict[str, Any]:
    """Size, rate, frames, codec and colour tags of a film, after decoding every frame."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        frames = sum(1 for _ in container.decode(stream))
        return {
            "width": context.width,
            "height": context.height,
            "fps": str(
                Fraction(int(stream.average_rate.numerator), int(stream.average_rate.denominator))
            ),
            "frames": frames,
            "codec": context.name,
            "pix_fmt": context.pix_fmt,
            "colorspace": int(context.colorspace),
            "color_primaries": int(context.color_primaries),
            "color_trc": int(context.color_trc),
            "color_range": int(context.color_range),
            "bytes": path.stat().st_size,
        }
