"""Standard streams: standard input is never waited for, standard output never refuses a character.

Standard library only, and no import of ours: `tools/launch.py` loads this file by its path.
"""

import os
from typing import IO, Any

POLL_SECONDS = 0.1
PIECE = 1024  # bytes


def read_now(descriptor: int) -> bytes | None:
    """What can be read at once; None: nothing yet, b"": the other end is closed.

    A thread that waits in a read of an inherited pipe holds a lock on it in Windows. Another one
    that only asks what kind of handle it is, as the C runtime of every loaded DLL does, then waits
    until somebody writes: imports never end. So nobody may wait here.
    """
    try:
        if os.name == "nt":
            import ctypes
            import msvcrt

            waiting = _in_pipe(ctypes.windll.kernel32, msvcrt.get_osfhandle(descriptor))
            if waiting is None:  # closed, or no pipe: a file never waits, a console has Ctrl-C
                waiting = 0 if os.isatty(descriptor) else PIECE
        else:
            import select

            waiting = PIECE if select.select([descriptor], [], [], 0)[0] else 0
        return os.read(descriptor, min(waiting, PIECE)) if waiting else None
    except OSError:
        return b""


def _in_pipe(kernel32: Any, handle: int) -> int | None:
    """Bytes that wait in a pipe of Windows, None where it is closed or no pipe."""
    import ctypes

    count = ctypes.c_ulong()
    peeked = kernel32.PeekNamedPipe(
        ctypes.c_void_p(handle), None, 0, None, ctypes.byref(count), None
    )
    return count.value if peeked else None


def never_refuse(stream: IO[str] | None) -> None:
    r"""Let a text stream write what its encoding lacks as \u65e5.

    Piped output is in the ANSI code page on Windows, and a name in another script would end the
    program.
    """
    if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
