"""What a page asks about nodes before they run: `POST /troupe/about`.

The page sends its nodes as a prompt would hold them, and gets for each what its inputs come to.
Nothing runs and nothing is written; the values are as untrusted as those of a prompt.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

log = logging.getLogger(__name__)

ROUTE = "/troupe/about"
MOST_NODES = 500
MOST_BYTES = 4 << 20
DEEPEST = 20  # links that are followed from one node


@dataclass
class About:
    """What is shown on a node before it runs.

    Attributes:
        facts: what its inputs come to, one line each.
        warnings: what will go wrong, and what to do.
        idle: names of widgets that mean nothing for the present inputs.
        picture: a data URL, "" for none.
        more: whether asking again with `deep` tells more.
    """

    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    picture: str = ""
    more: bool = False


class Asked:
    """One node of what a page sent."""

    def __init__(self, prompt: Mapping[str, Any], node: str, depth: int = 0):
        entry = prompt.get(node)
        entry = entry if isinstance(entry, Mapping) else {}
        inputs = entry.get("inputs")
        self.kind = str(entry.get("class_type", ""))
        self._inputs = inputs if isinstance(inputs, Mapping) else {}
        self._prompt, self._depth = prompt, depth

    def literals(self, *names: str) -> dict[str, Any]:
        """Inputs with a value of their own; linked ones are known only when the node runs."""
        given = {name: self._inputs[name] for name in names if name in self._inputs}
        return {name: value for name, value in given.items() if not isinstance(value, list)}

    def value(self, name: str, default: Any = None) -> Any:
        return self.literals(name).get(name, default)

    def linked(self, name: str) -> bool:
        return isinstance(self._inputs.get(name), list)

    def count(self, prefix: str) -> int:
        """How many sockets that begin with `prefix` are linked."""
        return sum(name.startswith(prefix) and self.linked(name) for name in self._inputs)

    def source(self, name: str) -> "Asked":
        """The node that an input is linked to; one without a kind where that is unknown."""
        link = self._inputs.get(name)
        known = isinstance(link, list) and link and self._depth < DEEPEST
        return Asked(self._prompt if known else {}, str(link[0]) if known else "", self._depth + 1)


Tell = Callable[[Asked, bool], About]


def answers(body: Any, tellers: Mapping[str, Tell]) -> dict[str, dict[str, Any]]:
    """{node id: About as a dict} for the nodes of a request that there is something to tell of.

    Raises:
        ValueError: not {"prompt": {id: node}, "nodes": [id, ...], "deep": bool}.
    """
    prompt = body.get("prompt") if isinstance(body, Mapping) else None
    nodes = body.get("nodes") if isinstance(body, Mapping) else None
    if not isinstance(prompt, Mapping) or not isinstance(nodes, list) or len(nodes) > MOST_NODES:
        raise ValueError('Send {"prompt": {ID: NODE}, "nodes": [ID]}.')
    deep = body.get("deep") is True
    return {node: asdict(about) for node, about in _each(prompt, nodes, tellers, deep)}


def _each(
    prompt: Mapping, nodes: list, tellers: Mapping[str, Tell], deep: bool
) -> Iterator[tuple[str, About]]:
    for node in map(str, nodes):
        asked = Asked(prompt, node)
        tell = tellers.get(asked.kind)
        if tell is None:
            continue
        try:
            yield node, tell(asked, deep)
        except (ValueError, RuntimeError) as error:  # ours: a sentence for the user
            yield node, About(warnings=[str(error).strip()])
        except (TypeError, KeyError, AttributeError, IndexError, OSError, ImportError):
            log.debug("Nothing to tell of %s.", asked.kind, exc_info=True)


def add_route(tellers: Mapping[str, Tell]) -> None:
    """Answer pages that ask; one request at a time, beside ComfyUI's own loop."""
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:  # nodes are looked at without a server
        return
    alone = asyncio.Lock()

    @server.routes.post(ROUTE)
    async def tell(request: web.Request) -> web.Response:
        if (request.content_length or 0) > MOST_BYTES:
            return web.json_response({"error": "Too large."}, status=413)
        try:
            body = await request.json()
            async with alone:
                return web.json_response(await asyncio.to_thread(answers, body, tellers))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
