"""Which names a file can have on every system: jobs and workflows travel between them.

Only what we write is held to this; files that are there are read by whatever name they have.
"""

import re

LONGEST = 200  # bytes: a number, an ending and .part have to fit into a file system's 255
# Windows takes these for devices, whatever follows behind a dot
DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in "123456789\u00b9\u00b2\u00b3"
}
_ENDING = re.compile(r"\.\w{1,11}$")
_WRONG = re.compile(r'[<>:"/\\|?*\x00-\x1f]')


def unwritable(name: str) -> str:
    """Why a file or folder cannot have this name on every system; "" if it can."""
    if found := _WRONG.search(name):
        return f"holds {found.group()!r}, which Windows has in no name"
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "holds half a character"
    if length > LONGEST:
        return f"is longer than {LONGEST} bytes"
    if name.split(".")[0].rstrip(" ").lower() in DEVICES:
        return "is a device on Windows"
    for part in (name, _ENDING.sub("", name)):  # also when the ending is cut, and another put on
        if part != part.rstrip(". "):
            return "ends in a dot or a space, which Windows drops"
    return ""


def unwritable_path(text: str) -> str:
    """As `unwritable`, for a relative path with slashes of either kind: names the part and why."""
    for name in text.replace("\\", "/").split("/"):
        if name not in ("", ".", "..") and (reason := unwritable(name)):
            return f"{name!r} {reason}" if name != text else reason
    return ""
