"""The variables of filename_prefix, by the front end's own rules.

The front end fills %date:FORMAT% and %NODE.WIDGET% in for core's classes only, so that is done here
for ours; %year%, %width% and the like are core's `get_save_image_path`'s.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

VARIABLE = re.compile(r"%([^%]+)%")
DATE = "date:"
TOKENS = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyy?y?")
IN_NO_NAME = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
SEARCH_NAME = "Node name for S&R"  # a property of every node; its class unless the user changed it
PLAIN_FLOATS = (1e-6, 1e21)  # between them JavaScript writes no exponent


def with_dates(prefix: str) -> str:
    """The prefix with every %date:FORMAT% filled in: d dd M MM yy yyyy h hh m mm s ss."""
    now = datetime.now()

    def fill(match: re.Match) -> str:
        text = match.group(1)
        return _date(text.removeprefix(DATE), now) if text.startswith(DATE) else match.group()

    return VARIABLE.sub(fill, prefix)


def with_values(prefix: str, hidden: Any) -> str:
    """The prefix with dates and every %NODE.WIDGET% filled in.

    NODE is a node's name for search and replace, else its title; the first one counts. What is not
    known here stays as it is, as in the front end: another name, a widget that is not sent with the
    prompt, a linked input.

    Args:
        hidden: a node's hidden inputs, with prompt and extra_pnginfo.
    """
    prompt = getattr(hidden, "prompt", None)
    info = getattr(hidden, "extra_pnginfo", None)
    nodes = list(_nodes(prompt, info)) if "." in prefix and isinstance(prompt, Mapping) else []

    def fill(match: re.Match) -> str:
        words = match.group(1).split(".")
        for kind in (0, 1):
            for *names, inputs in nodes:
                if len(words) == 2 and names[kind] == words[0]:
                    value = inputs.get(words[1], [])
                    kept = isinstance(value, (list, Mapping))
                    return match.group() if kept else IN_NO_NAME.sub("_", _text(value))
        return match.group()

    return VARIABLE.sub(fill, with_dates(prefix))


def without_variables(prefix: str) -> str:
    """The prefix before a prompt is known: each %NODE.WIDGET% could be any harmless text."""
    return re.sub(r"%[^%.]+\.[^%.]+%", "_", with_dates(prefix))


def _date(text: str, now: datetime) -> str:
    numbers = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def fill(match: re.Match) -> str:
        token = match.group()
        if token[0] in numbers:
            return str(numbers[token[0]]).zfill(len(token))
        return {"yy": f"{now.year}"[2:], "yyyy": f"{now.year}"}.get(token, token)

    return TOKENS.sub(fill, text)


def _text(value: Any) -> str:
    """As JavaScript's String()."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if value.is_integer() and abs(value) < PLAIN_FLOATS[1]:
            return str(int(value))
        if PLAIN_FLOATS[0] <= abs(value) < PLAIN_FLOATS[1]:
            return format(Decimal(repr(value)), "f")
        return re.sub(r"e([+-])0", r"e\1", repr(value))
    return str(value)


def _nodes(prompt: Mapping, info: Any) -> Iterator[tuple[str, str, Mapping]]:
    """(name for search and replace, title, inputs) of each node, in the workflow's order."""
    workflow = info.get("workflow") if isinstance(info, Mapping) else None
    drawn = dict(_drawn(workflow, workflow.get("nodes"))) if isinstance(workflow, Mapping) else {}
    for number in [*(n for n in drawn if n in prompt), *(n for n in prompt if n not in drawn)]:
        node, about = prompt[number], drawn.get(number, {})
        if not isinstance(node, Mapping) or not isinstance(node.get("inputs"), Mapping):
            continue
        properties, meta = about.get("properties"), node.get("_meta")
        name = properties.get(SEARCH_NAME) if isinstance(properties, Mapping) else None
        title = meta.get("title") if isinstance(meta, Mapping) else None
        yield name or node.get("class_type", ""), title or about.get("title", ""), node["inputs"]


def _drawn(workflow: Mapping, nodes: Any, path: str = "", depth: int = 0) -> Iterator[tuple]:
    """(number in a prompt, node) of all nodes; those of subgraphs have numbers like 7:2."""
    definitions = workflow.get("definitions")
    subgraphs = definitions.get("subgraphs") if isinstance(definitions, Mapping) else None
    known = {s.get("id"): s for s in subgraphs or () if isinstance(s, Mapping)}
    for node in nodes if isinstance(nodes, list) and depth < 20 else ():
        if isinstance(node, Mapping):
            number = f"{path}{node.get('id')}"
            yield number, node
            if inner := known.get(node.get("type")):
                yield from _drawn(workflow, inner.get("nodes"), f"{number}:", depth + 1)
