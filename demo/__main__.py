"""`python3 run.py demo`: the whole pipeline with the miniature model, from pictures to a film.

Starts ComfyUI with this pack, queues workflows/api/miniature_film.json, and measures by the drawn
world's own truth what came true. Leaves in output/demo: film.mp4, the LoRA, the sheets that the
nodes show, proof/ with pictures beside figures, and report.json.
"""

import argparse
import json
import platform
import shutil
import sys
import time
from fractions import Fraction
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.events import Event, Events
from tools.server import ComfyServer
from training.stdio import never_refuse

from . import proof
from .cast import FRAMES, held_out_character
from .measure import PeakMemory, Stopwatch, film_facts
from .trained import place_trained

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = ROOT / "workflows" / "api" / "miniature_film.json"
NOT_LOADED = "lora key not loaded"
BT709 = 1  # the code of BT.709 in H.264 streams, for matrix, primaries and transfer


class DemoError(RuntimeError):
    """The pipeline ran, but what it made is not right."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="run.py demo", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "demo")
    parser.add_argument("--frames", type=int, default=FRAMES, choices=range(1, FRAMES + 1),
                        metavar="N", help=f"frames of each dance, up to {FRAMES}")  # fmt: skip
    parser.add_argument(
        "--proof", type=int, default=8, metavar="N", help="pictures for each figure; 0 = no figures"
    )
    options = parser.parse_args()
    never_refuse(sys.stdout)
    report = run(options.output, options.frames, options.proof)
    for stage, seconds in report["stages_s"].items():
        print(f"{stage:>10} {seconds:8.1f} s")
    film = report["film"]
    print(
        f"{film['frames']} frames of {film['width']}x{film['height']} at {film['fps']} fps, "
        f"peak memory {report['peak_memory_mb']:.0f} MB, {report['film_s']:.0f} s to the film, "
        f"{report['total_s']:.0f} s in all"
    )
    for line in proof.lines(report.get("proof", {})):
        print(line)
    print(f"film: {options.output / 'film.mp4'}")
    return 0


def run(output: Path, frames: int, pictures: int) -> dict[str, Any]:
    """Run the pipeline and return the report, which is also written to output/report.json.

    Args:
        frames: of each dance.
        pictures: for each figure of the proof.

    Raises:
        DemoError: the film or the LoRA is not as it should be.
    """
    began = time.monotonic()
    base = output / "comfyui"
    for kept in (base, output / "proof", *output.glob("*.*")):
        shutil.rmtree(kept) if kept.is_dir() else kept.unlink(missing_ok=True)
    stages: dict[str, float] = {}
    place_trained(base / "models")  # for the figures; the workflow itself needs no file
    stages["models"] = time.monotonic() - began
    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    cast = next(n for n in prompt.values() if n["class_type"] == "TroupeMiniatureCast")
    cast["inputs"]["frames"] = frames
    since = time.monotonic()
    with ComfyServer(base) as server:
        stages["start"] = time.monotonic() - since
        with PeakMemory(server.pid) as memory:
            outputs, watch = follow(server, prompt)
        results = collect(server, output, prompt, outputs)
        film_done = time.monotonic()
        log = server.log_text()
    stages |= watch.seconds
    if pictures:
        results["proof"] = measure(base, output, results["lora"], pictures)
        stages["proof"] = time.monotonic() - film_done
    report = {
        "workflow": str(WORKFLOW.relative_to(ROOT)),
        "nodes": watch.order,
        "stages_s": {name: round(seconds, 2) for name, seconds in stages.items()},
        "film_s": round(film_done - began, 2),
        "total_s": round(time.monotonic() - began, 2),
        "peak_memory_mb": round(memory.peak_mb, 1),
        "film": film_facts(output / "film.mp4"),
        "lora_keys_not_loaded": log.count(NOT_LOADED),
        **results,
        "machine": {"system": platform.platform(), "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "diffusers", "peft", "transformers", "av")},
    }
    (output / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    check(report, prompt)
    return report


def measure(base: Path, output: Path, lora: str, pictures: int) -> dict[str, Any]:
    """What comes true of prompts, poses, references and the new LoRA (see demo.proof)."""
    print("- measuring", flush=True)
    with proof.open_studio(base, base / "models") as studio:
        name = studio.add_lora(output / lora)
        return proof.measure(studio, output / "proof", pictures, held_out_character(), name)


def follow(server: ComfyServer, prompt: dict[str, Any]) -> tuple[dict[str, Any], Stopwatch]:
    """Queue the prompt and wait for its end: its outputs, and the seconds per stage."""
    with Events(server.url, on_event=partial(_tell, prompt)) as events:
        prompt_id = server.client.queue(prompt, client_id=events.client_id)
        outputs = server.client.wait(prompt_id, timeout=1800)
        events.wait_for(lambda e: e.type == "executing" and e.data["node"] is None)
    watch = Stopwatch(prompt)
    for event in events.seen("executing"):
        watch.node_started(event.data["node"], event.at)
    return outputs, watch


def _tell(prompt: dict[str, Any], event: Event) -> None:
    """Say which node runs, so that a wait of minutes is not silent."""
    if event.type == "executing" and event.data["node"]:
        print(f"- {prompt[event.data['node']]['_meta']['title']}", flush=True)


# What a node shows goes into these files; a "%" takes the name that the node gave.
KEPT = {
    "TroupeSaveVideo": "film.mp4",
    "TroupeTrainLora": "%",
    "TroupeMiniatureCast": "contact_sheet.png",
    "TroupeComposeScene": "scene_sheet_{n}.png",
    "PreviewImage": "{title}.png",
}


def collect(
    server: ComfyServer, output: Path, prompt: dict[str, Any], outputs: dict[str, Any]
) -> dict[str, Any]:
    """Fetch the film, the LoRA with its word and the sheets into `output`; their names."""
    found: dict[str, Any] = {"sheets": []}
    for node_id, shown in outputs.items():
        kind = prompt[node_id]["class_type"]
        for item in (entry for value in shown.values() for entry in value):
            if kind not in KEPT or not isinstance(item, dict) or "filename" not in item:
                continue
            if kind == "TroupeTrainLora" and item["type"] != "output":
                continue
            words = item["subfolder"].split("/")[0] == "embeddings"
            title = prompt[node_id]["_meta"]["title"].lower().replace(" ", "_")
            name = KEPT[kind].replace("%", item["filename"])
            scenes = sum(sheet.startswith("scene_sheet") for sheet in found["sheets"])
            name = f"embedding_{name}" if words else name.format(n=scenes, title=title)
            (output / name).write_bytes(server.client.view(**item))
            if kind == "TroupeTrainLora":
                found["embedding" if words else "lora"] = name
            elif kind != "TroupeSaveVideo":
                found["sheets"].append(name)
    return found


def check(report: dict[str, Any], prompt: dict[str, Any]) -> None:
    """Compare the film with the timeline that was asked for, and see that the LoRA loaded."""
    timeline = next(n for n in prompt.values() if n["class_type"] == "TroupeTimeline")["inputs"]
    film, fps = report["film"], Fraction(timeline["fps"]).limit_denominator(1001)
    shots = [prompt[timeline[k][0]]["inputs"] for k in timeline if k.startswith("shots.")]
    overlap = sum(s["transition_duration"] for s in shots[1:])
    expected = {
        "width": timeline["width"],
        "height": timeline["height"],
        "fps": str(fps),
        "frames": round((sum(s["duration"] for s in shots) - overlap) * fps),
        "colorspace": BT709,
        "color_primaries": BT709,
        "color_trc": BT709,
    }
    wrong = {k: (film[k], v) for k, v in expected.items() if film[k] != v}
    if wrong:
        raise DemoError(f"the film is not as asked (found, expected): {wrong}")
    if "lora" not in report or report["lora_keys_not_loaded"]:
        raise DemoError(f"{report['lora_keys_not_loaded']} keys of the LoRA were not loaded")


if __name__ == "__main__":
    sys.exit(main())
