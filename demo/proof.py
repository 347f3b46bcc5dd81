"""What the trained miniature can do through the pack's nodes, measured by the world's own truth.

`Studio` renders scenes of the drawn world in ComfyUI; the functions below ask for scenes that
training never saw and let `demo.world.readers` say what came true.

`python -m demo.proof OUTPUT` measures all of it and writes figures and contact sheets.
"""

import argparse
import io
import json
import os
import queue
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from miniature import miniature_files
from miniature.complete import MiniatureFiles
from tools.client import Client
from tools.server import ComfyServer, link_folder

from .cast import (
    CALLED,
    SIZE_PX,
    held_out_character,
    pose_frame,
    save,
    words,
    write_dataset,
)
from .dance import write_frames
from .roles import PICTURES, SAYS
from .world import Character, Draws, Plan, plan_sample, reference_picture
from .world.readers import Verdict, compare

FILM = Path(__file__).resolve().parent.parent / "workflows" / "api" / "miniature_film.json"
STEPS, GUIDANCE = 20, 4.0
PER_PROMPT = 10  # pictures asked for at once
MOST_SERVERS = 4  # each takes about 2 GB of memory


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture to make.

    Attributes:
        plan: scene and pose that should come out.
        prompt: what is said.
        references: role -> picture (S, S, 3) uint8.
        control: whether the ControlNet sees the pose.
        lora: file below models/loras, "" for none.
    """

    plan: Plan
    prompt: str
    seed: int
    references: dict[str, np.ndarray] = field(default_factory=dict)
    control: bool = True
    lora: str = ""


class Studio:
    """Renders shots in running ComfyUIs that have the miniature's models."""

    def __init__(self, servers: Sequence[ComfyServer]):
        self.servers = list(servers)
        self.files = miniature_files(Path("models"))

    def add_lora(self, file: Path) -> str:
        """Place a LoRA among the models; its name there."""
        for server in self.servers:
            loras = server.models_dir / "loras"
            loras.mkdir(exist_ok=True)
            shutil.copyfile(file, loras / file.name)
        return file.name

    def render(self, shots: Sequence[Shot]) -> Iterator[np.ndarray]:
        """(SIZE_PX, SIZE_PX, 3) uint8, one for each shot, in their order, as they come."""
        free: queue.Queue[ComfyServer] = queue.Queue()
        for server in self.servers:
            free.put(server)

        def render(some: Sequence[Shot]) -> list[np.ndarray]:
            server = free.get()
            try:
                return _Order(server, self.files).render(some)
            finally:
                free.put(server)

        parts = [shots[i : i + PER_PROMPT] for i in range(0, len(shots), PER_PROMPT)]
        with ThreadPoolExecutor(len(self.servers)) as pool:
            for pictures in pool.map(render, parts):
                yield from pictures


@contextmanager
def open_studio(base: Path, models: Path) -> Iterator[Studio]:
    """A studio of one ComfyUI a core, each with one thread: for pictures as small as these about
    twice as quick as one with two. With an accelerator it is a single one.

    Args:
        base: folder for the base directories of the servers.
        models: their models folder.
    """
    import torch

    alone = torch.accelerator.is_available()
    count = 1 if alone else min(MOST_SERVERS, os.cpu_count() or 1)
    environment = {} if alone else {"OMP_NUM_THREADS": "1"}
    with ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        servers = []
        for number in range(count):
            folder = base / f"studio_{number}"
            link_folder(models, folder / "models")
            servers.append(ComfyServer(folder, environment=environment))
        for server in servers:
            stack.callback(server.stop)
        list(pool.map(ComfyServer.start, servers))
        yield Studio(servers)


class _Order:
    """One prompt with several shots."""

    def __init__(self, server: ComfyServer, files: MiniatureFiles):
        self.server, self.files = server, files
        self._made = 0

    def render(self, shots: Sequence[Shot]) -> list[np.ndarray]:
        graph = Graph(self.server.client)
        checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name=self.files.checkpoint.name)
        control_name = self.files.controlnet.name
        loaders = {"control_net": graph.add("ControlNetLoader", control_net_name=control_name)}
        if any(shot.references for shot in shots):
            loaders["ipadapter"] = graph.add(
                "TroupeLoadIPAdapter", ipadapter_name=self.files.ip_adapter_plus.name
            )
            loaders["clip_vision"] = graph.add(
                "CLIPVisionLoader", clip_name=self.files.clip_vision.name
            )
        saved = [self._add(graph, shot, checkpoint, loaders) for shot in shots]
        outputs = self.server.client.run(graph.nodes, timeout=1200)
        return [self._picture(outputs[node]) for node in saved]

    def _add(self, graph: "Graph", shot: Shot, checkpoint: str, loaders: dict[str, str]) -> str:
        self._made += 1
        model, clip = [checkpoint, 0], [checkpoint, 1]
        if shot.lora:
            lora = graph.add("TroupeApplyLoras", model=model, clip=clip, files=f"{shot.lora}: 1.0")
            model, clip = [lora, 0], [lora, 1]
        sockets: dict[str, Any] = {}
        if shot.control:
            sockets["control_net"] = [loaders["control_net"], 0]
        for role, picture in shot.references.items():
            name = f"proof_{self._made}_{role}.png"
            save(self.server.input_dir / name, picture)
            image = graph.add("LoadImage", image=name)
            sockets[role] = [graph.add(f"Troupe{role.capitalize()}", image=[image, 0]), 0]
            sockets |= {k: [loaders[k], 0] for k in ("ipadapter", "clip_vision")}
        pose_file = f"proof_{self._made}.json"
        write_frames(self.server.input_dir / pose_file, [pose_frame(shot.plan.pose)])
        pose = graph.add("TroupeLoadPose", pose_file=pose_file)
        scene = graph.add(
            "TroupeComposeScene", model=model, clip=clip, vae=[checkpoint, 2], pose=[pose, 0],
            prompt=shot.prompt, negative="", width=SIZE_PX, height=SIZE_PX, **sockets,
        )  # fmt: skip
        sampled = graph.add(
            "KSampler", seed=shot.seed, steps=STEPS, cfg=GUIDANCE, sampler_name="euler",
            scheduler="normal", denoise=1.0, model=[scene, 0], positive=[scene, 1],
            negative=[scene, 2], latent_image=[scene, 3],
        )  # fmt: skip
        decoded = graph.add("VAEDecode", samples=[sampled, 0], vae=[checkpoint, 2])
        return graph.add("PreviewImage", images=[decoded, 0])

    def _picture(self, output: dict) -> np.ndarray:
        from PIL import Image

        data = self.server.client.view(**output["images"][0])
        return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


class Graph:
    """A prompt in API format under construction; widgets that are not named keep their defaults."""

    def __init__(self, client: Client):
        self._client = client
        self.nodes: dict[str, dict[str, Any]] = {}

    def add(self, class_type: str, **inputs: Any) -> str:
        """The new node's id; an input may be [id, output number]."""
        number = str(len(self.nodes) + 1)
        self.nodes[number] = {"class_type": class_type, "inputs": self._defaults(class_type)}
        self.nodes[number]["inputs"].update(inputs)
        return number

    def _defaults(self, class_type: str) -> dict[str, Any]:
        described = self._client.object_info(class_type)[class_type]
        required = described["input"].get("required", {})
        found = {}
        for name, (kind, *rest) in required.items():
            options = rest[0] if rest else {}
            if "default" in options:
                found[name] = options["default"]
            elif kind == "COMBO" and options.get("options"):
                found[name] = options["options"][0]
        return found


# -- what is measured ------------------------------------------------------------------------------


@dataclass(eq=False)
class Figures:
    """Shares of right answers by name, mean overlap, and the pictures they were read from."""

    rates: dict[str, float]
    person_iou: float
    pictures: list[np.ndarray]


def judge(plans: Sequence[Plan], pictures: Iterable[np.ndarray]) -> Figures:
    """Read every picture with the truth masks of its plan's pose, while the next ones are made.

    Beside the readers' own names: `garment_type` (all garments of the right kind), `garment_colour`
    (right colours, whatever the pattern) and `garment_pattern` of the upper garment, `background`
    (the kind of place), `character` (hair colour, hair style and mark).
    """
    kept: list[np.ndarray] = []

    def keep() -> Iterator[np.ndarray]:
        for picture in pictures:
            kept.append(picture)
            yield picture

    with ThreadPoolExecutor(1) as reader:
        verdicts = list(reader.map(_verdict, plans, keep()))
    right, total = Counter(), Counter()
    for verdict in verdicts:
        for name, ok in _answers(verdict).items():
            right[name] += bool(ok)
            total[name] += 1
    rates = {name: round(right[name] / total[name], 3) for name in sorted(total)}
    overlap = float(np.mean([verdict.person_iou for verdict in verdicts]))
    return Figures(rates, round(overlap, 3), kept)


def _verdict(plan: Plan, picture: np.ndarray) -> Verdict:
    return compare(picture, plan.scene, plan.pose)


def _answers(verdict: Verdict) -> dict[str, bool]:
    read, wanted = verdict.read, verdict.wanted
    answers = dict(verdict.right)
    answers["garment_type"] = answers["upper_kind"] and answers["lower_kind"]
    if "upper_cloth" in answers:
        colours = [{v[f"upper_colour{n}"] for n in ("", "2")} for v in (read, wanted)]
        answers["garment_colour"] = colours[0] == colours[1]
        answers["garment_pattern"] = read["upper_pattern"] == wanted["upper_pattern"]
    answers["background"] = answers["place"]
    answers["character"] = all(answers[n] for n in ("hair_colour", "hair_style", "mark"))
    return answers


def _seen(studio: Studio, shots: Sequence[Shot]) -> Figures:
    return judge([shot.plan for shot in shots], studio.render(shots))


def held_out_plans(count: int, first: int = 0) -> list[Plan]:
    """Plans from the test stream, which training never saw."""
    return [plan_sample(first + i, split="test") for i in range(count)]


def measure_text(studio: Studio, count: int) -> tuple[Figures, Figures]:
    """Full prompts at held-out poses: with ControlNet, and without it."""
    plans = held_out_plans(count)
    shots = [Shot(plan, words(plan), seed=i) for i, plan in enumerate(plans)]
    free = [replace(shot, control=False) for shot in shots]
    return _seen(studio, shots), _seen(studio, free)


def measure_reference(studio: Studio, role: str, count: int) -> tuple[Figures, Figures]:
    """Prompts silent about what the role shows: with a reference of it, and without.

    The reference comes from another scene than the prompt, so that only it can bring its look.
    """
    shots = []
    for i, plan in enumerate(held_out_plans(count, first=10_000)):
        other = plan_sample(20_000 + i, split="test").scene
        mixed = replace(plan, scene=replace(plan.scene, **{role: getattr(other, role)}))
        picture = reference_picture(PICTURES[role], other, Draws(41, i))
        shots.append(Shot(mixed, words(mixed, SAYS[role]), i, {role: picture}))
    without = [replace(shot, references={}) for shot in shots]
    return _seen(studio, shots), _seen(studio, without)


def train_lora(server: ComfyServer, character: Character) -> Path:
    """Train on 12 pictures, with the nodes and settings of the film's workflow; the file."""
    folder = server.input_dir / "proof_character"
    write_dataset(folder, character)
    film = json.loads(FILM.read_text(encoding="utf-8"))
    train = next(number for number, node in film.items() if node["class_type"] == "TroupeTrainLora")
    prompt = _with_all_before(film, train)
    for node in prompt.values():
        if node["class_type"] == "TroupeMiniatureCast":  # both give a dataset first
            node |= {"class_type": "TroupeLoadDataset", "inputs": {"folder": folder.name}}
    prompt[train]["inputs"]["filename_prefix"] = "proof/character"
    file, *_ = server.client.run(prompt, timeout=1200)[train]["files"]
    return server.output_dir / "loras" / "proof" / file["filename"]


def _with_all_before(prompt: dict[str, Any], number: str) -> dict[str, Any]:
    """A node of an API-format prompt and the nodes it needs."""
    found = {number: prompt[number]}
    for value in prompt[number]["inputs"].values():
        if isinstance(value, list):
            found |= _with_all_before(prompt, value[0])
    return found


def measure_lora(studio: Studio, character: Character, lora: str, count: int) -> dict[str, Figures]:
    """Held-out scenes of the character: "with" the trigger, "without" it, and "others".

    "others" are prompts that describe somebody else: with the LoRA on they must come out as said.
    """
    shots: dict[str, list[Shot]] = {"with": [], "without": [], "others": []}
    for i, plan in enumerate(held_out_plans(count, first=40_000)):
        ours = replace(plan, scene=replace(plan.scene, character=character))
        hidden = SAYS["character"]
        shots["with"].append(Shot(ours, words(ours, hidden, CALLED), i, lora=lora))
        shots["without"].append(Shot(ours, words(ours, hidden), i, lora=lora))
        shots["others"].append(Shot(plan, words(plan), i, lora=lora))
    return {name: _seen(studio, some) for name, some in shots.items()}


def contact_sheet(path: Path, figures: Sequence[Figures], columns: int = 12) -> None:
    """One row for each set of pictures, the first `columns` of each."""
    rows = [np.concatenate(f.pictures[:columns], axis=1) for f in figures]
    save(path, np.concatenate(rows))


def measure(
    studio: Studio, output: Path, count: int, character: Character, lora: str
) -> dict[str, Any]:
    """All figures, by name; they and contact sheets go into `output` as soon as they are known.

    Args:
        count: pictures for each figure.
        lora: file below models/loras, trained on pictures of `character`.
    """
    output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"pictures": count}

    def keep(name: str, seen: Sequence[Figures]) -> None:
        contact_sheet(output / f"{name}.png", seen)
        (output / "proof.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"  {name}: {found[name]}", flush=True)

    began = time.monotonic()
    posed, free = measure_text(studio, count)
    found["picture_s"] = round((time.monotonic() - began) / (2 * count), 2)
    found["text"], found["pose"] = posed.rates, {"iou": posed.person_iou, "free": free.person_iou}
    keep("text", (posed, free))
    results = measure_lora(studio, character, lora, count)
    found["lora"] = {name: figures.rates for name, figures in results.items()}
    keep("lora", list(results.values()))
    for role in SAYS:
        given, without = measure_reference(studio, role, count)
        found[role] = {"with": given.rates, "without": without.rates}
        keep(role, (given, without))
    return found


# Where the figures are in what `measure` finds, and how they are told.
TOLD = (
    ("prompts come true: garment type", ("text", "garment_type")),
    ("prompts come true: garment colour", ("text", "garment_colour")),
    ("prompts come true: background", ("text", "background")),
    ("person where the pose has it (IoU)", ("pose", "iou")),
    ("  without ControlNet", ("pose", "free")),
    ("outfit of the attire picture: colour", ("attire", "with", "garment_colour")),
    ("  without the picture", ("attire", "without", "garment_colour")),
    ("outfit of the attire picture: pattern", ("attire", "with", "garment_pattern")),
    ("  without the picture", ("attire", "without", "garment_pattern")),
    ("  hair colour still as the prompt says", ("attire", "with", "hair_colour")),
    ("place of the background picture", ("background", "with", "background")),
    ("  without the picture", ("background", "without", "background")),
    ("hair colour of the character picture", ("character", "with", "hair_colour")),
    ("  without the picture", ("character", "without", "hair_colour")),
    ("hair style of the character picture", ("character", "with", "hair_style")),
    ("  without the picture", ("character", "without", "hair_style")),
    ("face mark of the character picture", ("character", "with", "mark")),
    ("  without the picture", ("character", "without", "mark")),
    ("LoRA with its trigger: the character", ("lora", "with", "character")),
    ("  without the trigger", ("lora", "without", "character")),
    ("  others as the prompt says", ("lora", "others", "character")),
    ("seconds a picture, each core making one", ("picture_s",)),
)


def lines(found: dict[str, Any]) -> list[str]:
    """The main figures of `measure` for a terminal."""
    out = []
    for label, path in TOLD if found else ():
        value: Any = found
        for key in path:
            value = value[key]
        out.append(f"{label:<40} {value:5.2f}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=100, help="pictures for each figure")
    parser.add_argument("--models", type=Path, help="a models folder instead of ours")
    options = parser.parse_args()
    base = options.output / "comfyui"
    if options.models:
        link_folder(options.models, base / "models")
    else:
        from .trained import place_trained

        place_trained(base / "models")
    character = held_out_character()
    with ComfyServer(base) as server:
        lora = train_lora(server, character)
    with open_studio(base, base / "models") as studio:
        name = studio.add_lora(lora)
        found = measure(studio, options.output, options.count, character, name)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
