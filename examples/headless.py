"""Run a workflow on a ComfyUI server without a browser, and fetch what it made.

    python examples/headless.py workflows/api/pose_sequence_to_film.json \\
        --url http://127.0.0.1:8188 --set "Positive prompt.prompt=an astronaut dancing" --into films

Standard library only: a start for your own client. `--set TITLE.INPUT=VALUE` changes an input of
the node with that title; the tables in workflows/README.md list them.
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path


def call(url: str, path: str, body: dict | None = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, data, headers)) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        sys.exit(f"{path}: HTTP {error.code}\n{error.read().decode(errors='replace')}")


def set_input(prompt: dict, assignment: str) -> None:
    place, _, text = assignment.partition("=")
    title, _, name = place.rpartition(".")
    for node in prompt.values():
        if node["_meta"]["title"] == title:
            try:
                node["inputs"][name] = json.loads(text)
            except json.JSONDecodeError:
                node["inputs"][name] = text
            return
    titles = ", ".join(repr(node["_meta"]["title"]) for node in prompt.values())
    sys.exit(f"No node has the title {title!r}; there are {titles}.")


def run(url: str, prompt: dict) -> dict:
    """Queue the prompt, wait for its end, and return its outputs by node id."""
    prompt_id = str(uuid.uuid4())
    call(url, "/prompt", {"prompt": prompt, "prompt_id": prompt_id})
    while True:
        record = json.loads(call(url, f"/history/{prompt_id}")).get(prompt_id)
        if record:
            break
        time.sleep(1)
    if record["status"]["status_str"] != "success":
        failures = [data for event, data in record["status"]["messages"] if "error" in event]
        sys.exit("\n".join(f"{f['node_type']}: {f['exception_message']}" for f in failures))
    return record["outputs"]


def fetch(url: str, outputs: dict, folder: Path) -> list[Path]:
    """Download every file that a node saved (temporary previews are left out)."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    for values in outputs.values():
        for item in (entry for value in values.values() for entry in value):
            if isinstance(item, dict) and item.get("type") == "output" and item.get("filename"):
                keys = ("filename", "subfolder", "type")
                query = urllib.parse.urlencode({key: item.get(key, "") for key in keys})
                path = folder / Path(item["filename"]).name
                path.write_bytes(call(url, f"/view?{query}"))
                saved.append(path)
    return saved


def main() -> None:
    sys.stdout.reconfigure(errors="backslashreplace")  # piped, it may know fewer characters
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workflow", type=Path, help="a file of workflows/api")
    parser.add_argument("--url", default="http://127.0.0.1:8188")
    parser.add_argument("--set", action="append", default=[], metavar="TITLE.INPUT=VALUE")
    parser.add_argument("--into", type=Path, default=Path("fetched"))
    options = parser.parse_args()
    prompt = json.loads(options.workflow.read_text(encoding="utf-8"))
    for assignment in options.set:
        set_input(prompt, assignment)
    for path in fetch(options.url, run(options.url, prompt), options.into):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
