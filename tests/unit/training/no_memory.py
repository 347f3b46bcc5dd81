"""The training program in a process whose memory may not grow once training starts.

    python no_memory.py ROOT JOB.json

Allocations really fail: the limit on the address space is set to what is in use.
"""

import resource
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

from training import cli, events  # noqa: E402

SPARE_BYTES = 64 << 20  # for stacks of threads, whose lack is another failure


def limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


class Limiting(events.Events):
    def emit(self, event: str, **fields) -> None:
        super().emit(event, **fields)
        if event == "phase" and fields["name"] == "train":
            limit()


cli.Events = Limiting
sys.exit(cli.main(sys.argv[2:]))
