"""metadata.jsonl: captions by file name, the way Hugging Face's imagefolder datasets have them."""

import json
from pathlib import Path, PurePosixPath

LISTING = "metadata.jsonl"
MAX_BYTES = 64 << 20
NAME_KEYS = ("file_name", "filename", "image", "path")
TEXT_KEYS = ("text", "caption", "prompt", "description")
MAX_PROBLEMS = 20  # named one by one

Problem = tuple[int, str]  # line number from 1, 0 for the whole file; message


def read_listing(path: Path) -> tuple[dict[str, str], list[Problem]]:
    """({name relative to the file's folder: caption}, problems); one JSON object per line.

    The name is in `file_name`, the caption in `text` (other common keys are taken, too). Lines
    that cannot be used are left out and named.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            return {}, [(0, "larger than 64 MB and not read: split the dataset")]
        data = path.read_bytes()
    except OSError as error:
        return {}, [(0, f"cannot be read ({error.strerror or type(error).__name__})")]
    texts: dict[str, str] = {}
    problems: list[Problem] = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if not line.strip():
            continue
        try:
            name, text = _entry(line)
            if name in texts:
                raise ValueError(f"names {name!r} again: the first caption is used")
            texts[name] = text
        except ValueError as error:
            problems.append((number, str(error)))
    if len(problems) > MAX_PROBLEMS:
        left = len(problems) - MAX_PROBLEMS
        problems[MAX_PROBLEMS:] = [(0, f"{left} more of its lines cannot be used")]
    return texts, problems


def _entry(line: bytes) -> tuple[str, str]:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8: save the file as UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError('is not JSON: write {"file_name": "a.png", "text": "..."}') from None
    if not isinstance(values, dict):
        raise ValueError('is no object: write {"file_name": "a.png", "text": "..."}')
    return _name(values), _text(values)


def _name(values: dict) -> str:
    name = next((values[k] for k in NAME_KEYS if k in values), None)
    if not isinstance(name, str) or not name.strip():
        raise ValueError('has no "file_name"')
    plain = name.strip().replace("\\", "/")
    path = PurePosixPath(plain)
    if path.is_absolute() or ".." in path.parts or ":" in plain or "\0" in plain:
        raise ValueError(f"names {name[:80]!r}: a name relative to the folder is expected")
    return str(path)


def _text(values: dict) -> str:
    text = next((values[k] for k in TEXT_KEYS if values.get(k) is not None), None)
    if isinstance(text, list) and text and all(isinstance(t, str) for t in text):
        return "\n".join(text)
    if not isinstance(text, str):
        raise ValueError(f"has no text: one of {', '.join(TEXT_KEYS)} is expected")
    return text
