"""Captions: read the text beside a picture, and make the finished caption from a template."""

import re
from pathlib import Path

CAPTION_EXTENSIONS = (".txt", ".caption")
MAX_CAPTION_BYTES = 64 * 1024
PLACEHOLDERS = ("trigger", "caption", "category")

_PLACEHOLDER = re.compile(r"\{([^{}|]*)\}")  # {a|b} is no placeholder but a choice, see variants
_COMMA = re.compile(r",(?![^{}]*\})")  # not inside braces


def check_template(template: str) -> str:
    """The template itself, if every {placeholder} in it is known.

    Raises:
        ValueError: names the unknown placeholder and the known ones.
    """
    for name in _PLACEHOLDER.findall(template):
        if name not in PLACEHOLDERS:
            known = ", ".join("{" + p + "}" for p in PLACEHOLDERS)
            raise ValueError(f"caption template knows {known}, not {{{name}}}")
    return template


def compose_caption(template: str, caption: str, trigger: str = "", category: str = "") -> str:
    """The caption that training sees.

    The template is a comma-separated list of parts. A part with an empty placeholder is left out,
    and so is the trigger's part when `caption` names the trigger already. A caption may hold
    commas and braces of its own; they are not looked at again.
    """
    values = {"trigger": trigger.strip(), "caption": caption.strip(" ,"), "category": category}
    if "{caption}" in template and holds_phrase(values["caption"], values["trigger"]):
        values["trigger"] = ""
    parts = []
    for part in _COMMA.split(template):
        names = _PLACEHOLDER.findall(part)
        if all(values[name] for name in names):
            parts.append(_PLACEHOLDER.sub(lambda m: values[m.group(1)], part).strip())
    return ", ".join(p for p in parts if p)


def holds_phrase(text: str, phrase: str) -> bool:
    """Whether `text` names `phrase` as words of their own, in any case."""
    if not phrase:
        return False
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


def read_caption(path: Path, lines: str = "join") -> tuple[str, str]:
    """(caption, remark): the remark is "" or says how the file was odd.

    UTF-8 with or without a byte order mark, UTF-16 with one; anything else is read as
    Windows-1252 and remarked on. Lines are joined with commas; with `lines` "choose" they stay
    lines, alternatives of each other.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_CAPTION_BYTES + 1)
    if len(data) > MAX_CAPTION_BYTES:
        return "", "the caption file is larger than 64 KB and was not read: keep one short text"
    text, remark = _decode(data)
    return ("\n" if lines == "choose" else ", ").join(clean_lines(text)), remark


def clean_lines(text: str) -> list[str]:
    """Lines that hold something, without control characters and outer commas."""
    text = "".join(c if c.isprintable() or c.isspace() else " " for c in text)
    lines = [" ".join(line.split()).strip(" ,") for line in text.splitlines()]
    return [line for line in lines if line]


def _decode(data: bytes) -> tuple[str, str]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace"), "the caption is UTF-16: save it as UTF-8"
    if b"\0" in data:
        return "", "the caption file is not text: write the caption as plain UTF-8"
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
        return text, "the caption is not UTF-8 and was read as Windows-1252: save it as UTF-8"
