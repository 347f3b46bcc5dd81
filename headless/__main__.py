"""Run a workflow on a ComfyUI server without a browser, and fetch what it made.

    python -m headless workflows/api/compose_scene.json --set "Scene.prompt=a moon walk" --into got

--set changes an input of the node with that title (or id, or class if there is only one); the table
in workflows/README.md lists them. Ctrl-C takes the prompt out of ComfyUI's queue.

Exit codes: 0 done, and every file fetched. 1 ComfyUI refused the prompt or a part of it, or a node
failed. 2 the command, the file or a --set is wrong; nothing was queued. 3 stopped or deleted by
somebody else. 4 ComfyUI cannot be reached, or was restarted. 5 not done in --timeout seconds, and
cancelled. 130 Ctrl-C.
"""

import argparse
import json
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .client import NO_ANSWER, Client
from .errors import (
    ClientError,
    ExecutionInterrupted,
    PromptTimeout,
    ServerLost,
    WorkflowError,
)
from .files import read_prompt
from .inputs import set_inputs

REFUSED, WRONG, STOPPED, LOST, TOO_LATE, CTRL_C = 1, 2, 3, 4, 5, 130
CODES = (
    (WorkflowError, WRONG),
    (ExecutionInterrupted, STOPPED),
    (ServerLost, LOST),
    (PromptTimeout, TOO_LATE),
    (ClientError, REFUSED),
    (NO_ANSWER, LOST),
)
DAY_S = 86_400.0
CANCEL_S = 5.0  # a server that is gone must not hold Ctrl-C up


def main(arguments: list[str] | None = None) -> int:
    sys.stdout.reconfigure(errors="backslashreplace")  # piped, it may know fewer characters
    options = _parser().parse_args(arguments)
    client = Client(options.url, timeout=60.0)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    try:
        _make(options.into)
        prompt = set_inputs(read_prompt(options.workflow, client), options.set, client)
        for path in fetch(client, _run(client, prompt, options.timeout), options.into):
            print(path, flush=True)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return CTRL_C
    except (ClientError, *NO_ANSWER, ValueError) as error:
        print(_reason(error, options), file=sys.stderr)
        return next((code for kind, code in CODES if isinstance(error, kind)), LOST)
    return 0


def fetch(client: Client, outputs: dict[str, Any], folder: Path) -> Iterator[Path]:
    """Download every file that a node saved; temporary previews are left out.

    A file that is there already is kept: the new one gets a number.
    """
    for item in _saved(outputs):
        name = Path(str(item["filename"]).replace("\\", "/")).name
        path, number = folder / name, 1
        while path.exists():
            number += 1
            path = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
        client.download(item, path)
        yield path


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkflowError(f"--into {folder} cannot be made: {error.strerror}.") from None


def _saved(outputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    seen = set()
    for shown in outputs.values():
        for entries in shown.values():
            for item in entries if isinstance(entries, list) else ():
                if not isinstance(item, dict) or item.get("type") != "output":
                    continue
                key = item.get("subfolder", ""), item.get("filename")
                if key[1] and key not in seen:
                    seen.add(key)
                    yield item


def _run(client: Client, prompt: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    prompt_id = str(uuid.uuid4())
    try:
        return client.wait(client.queue(prompt, prompt_id=prompt_id), timeout_s)
    except KeyboardInterrupt:
        try:
            Client(client.url, timeout=CANCEL_S).cancel(prompt_id)
        except (ClientError, *NO_ANSWER):
            print(f"Prompt {prompt_id} could not be cancelled.", file=sys.stderr)
        raise


def _reason(error: BaseException, options: argparse.Namespace) -> str:
    if isinstance(error, ClientError):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        return f"What answers at {options.url} is no ComfyUI."
    return f"ComfyUI at {options.url} cannot be reached ({error}). Start it, or give --url."


def _parser() -> argparse.ArgumentParser:
    first, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m headless", description=first, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("workflow", type=Path, help="a file in API format, or the editor's own")
    parser.add_argument("--url", type=_url, default="http://127.0.0.1:8188")
    parser.add_argument("--set", action="append", default=[], metavar="TITLE.INPUT=VALUE")
    parser.add_argument("--into", type=Path, default=Path("fetched"), help="folder for the files")
    parser.add_argument(
        "--timeout", type=float, default=DAY_S, metavar="S", help="seconds; default: a day"
    )
    return parser


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r}: write it as http://127.0.0.1:8188")
    return text


if __name__ == "__main__":
    sys.exit(main())
