"""What the inputs of each node come to, told before it runs: see `runtime.asked`.

One function a node, by node id in TELLERS. They call what `execute` calls, so both agree.
"""

import base64
import inspect
from io import BytesIO
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
from comfy_api.v0_0_2 import io
from PIL import Image

from ..conditioning.pose import draw_pose, read_pose_files
from ..training import all_settings, forecast, merge, parse_job, setting
from ..training.folders import Scan, scan_folder
from ..training.memory import spill_warning
from ..training.records import CATEGORIES, EXTENSIONS
from ..video import preset_named, with_quality
from .adapter_options import TroupeAdapterOptions
from .data_options import TroupeDataOptions
from .learning_options import TroupeLearningOptions
from .runtime.asked import About, Asked, Tell
from .runtime.combos import is_hint
from .runtime.datasets import find_folder
from .runtime.loras import parse_stack
from .runtime.panel import PANELS
from .runtime.paths import dataset_roots
from .runtime.pose_files import pose_paths
from .runtime.progress import duration, planned_memory
from .runtime.types import CheckedOptions
from .training import own_settings
from .training_options import TroupeTrainingOptions
from .video import FILM_DEFAULT

OPTIONS: dict[str, type[io.ComfyNode]] = {
    node.__name__: node
    for node in (
        TroupeTrainingOptions,
        TroupeAdapterOptions,
        TroupeDataOptions,
        TroupeLearningOptions,
    )
}
OWN = ("steps", "rank", "learning_rate", "resolution", "seed", "sample_prompts", "sample_every")
CATEGORY_WIDGETS = tuple(f"{c}_{name}" for c in CATEGORIES for name in ("trigger", "template"))
SHOWN_POSES, STRIP_PX = 4, 160


# ------------------------------------------------------------------------------------- training


def _options(asked: Asked) -> CheckedOptions:
    """What a chain of options nodes gives; inputs that are linked count as they are by default."""
    node = OPTIONS.get(asked.kind)
    if node is None:
        return CheckedOptions()
    names = [name for name in inspect.signature(node.execute).parameters if name != "options"]
    given = asked.literals(*names)
    if "options" in inspect.signature(node.execute).parameters:
        given["options"] = _options(asked.source("options"))
    return node.execute(**given).result[0]


def _tell_options(asked: Asked, deep: bool) -> About:
    values = _flat(_options(asked))
    different = [
        f"{path.replace('.', ' ').replace('_', ' ')} {_word(value)}"
        for path, value in values.items()
        if value != setting(path).default
    ]
    return About([", ".join(different) if different else "Everything as the preset says."])


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    known = {s.path for s in all_settings()}

    def walk(part: dict[str, Any], prefix: str):
        for key, value in part.items():
            if prefix + key in known:
                yield prefix + key, value
            elif isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")

    return dict(walk(values, ""))


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tell_training(asked: Asked, deep: bool) -> About:
    checkpoint = asked.value("checkpoint")
    if is_hint(checkpoint):
        return About()
    path = folder_paths.get_full_path("checkpoints", str(checkpoint)) if checkpoint else None
    values = merge(own_settings(**asked.literals(*OWN)), _options(asked.source("options")))
    fixed = {"base": {"checkpoint": path or "-"}, "dataset": {"folder": "-"}}
    job = parse_job(merge(values, fixed), asked.value("preset", ""))
    about = About(more=bool(path) and not deep)
    about.facts.append(
        f"{job.schedule.steps} steps, rank {job.adapter.rank}, "
        f"learning rate {job.optimizer.learning_rate:g}"
    )
    scan = _scan(asked.source("dataset"))
    if scan and scan.found:
        seen = job.schedule.steps * job.batch.size * job.batch.accumulation
        each = seen / sum(found.group.repeats for found in scan.found)
        about.facts[0] += f": {len(scan.found)} pictures, each seen about {each:.0f} times"
    if deep and path:
        _tell_cost(about, job, Path(path).name)
    elif job.buckets.resolution:
        about.facts.append(f"{job.buckets.resolution} px")
    return about


def _tell_cost(about: About, job: Any, checkpoint: str) -> None:
    """What it takes: predicted memory, and time where this computer has been measured."""
    side, device, memory = forecast(job)
    where = "main memory" if device.type == "cpu" else "graphics memory"
    planned = planned_memory({"memory": memory.summary()}).replace(" planned", "")
    about.facts.append(f"{side} px, {planned.replace('of memory', f'of {where}')}")
    last = next((p for p in reversed(PANELS.all()) if _alike(p, checkpoint, side)), None)
    if last:
        pace = last.figures["seconds"]
        about.facts.append(f"{duration(pace * job.schedule.steps)}, if a step takes {pace:.2g} s")
    else:
        about.facts.append("How long it takes is known after its first steps.")
    if warning := spill_warning(memory, job):
        about.warnings.append(warning)


def _alike(panel: Any, checkpoint: str, side: int) -> bool:
    plan = panel.plan
    same = (plan.get("checkpoint"), plan.get("resolution")) == (checkpoint, side)
    return same and bool(panel.figures.get("seconds"))


def _scan(asked: Asked) -> Scan | None:
    """What lies in the folder of a Load Dataset; nothing is opened."""
    folder = asked.value("folder") if asked.kind == "TroupeLoadDataset" else None
    if not folder or is_hint(folder):
        return None
    return scan_folder(find_folder(folder), EXTENSIONS, [Path(root) for root in dataset_roots()])


def _tell_dataset(asked: Asked, deep: bool) -> About:
    scan = _scan(asked)
    if scan is None:
        return About(idle=list(CATEGORY_WIDGETS))
    counts = {c: sum(f.group.category == c for f in scan.found) for c in CATEGORIES}
    parts = [f"{count} in {name}/" for name, count in counts.items() if count]
    facts = [f"{len(scan.found)} pictures{': ' if parts else ''}{', '.join(parts)}"]
    without = sum(found.caption is None for found in scan.found)
    if without:
        facts.append(f"{without} without a caption file")
    masks = sum(found.mask is not None for found in scan.found)
    if masks:
        facts.append(f"{masks} with a mask")
    return About(facts, idle=[] if parts else list(CATEGORY_WIDGETS))


def _tell_captions(asked: Asked, deep: bool) -> About:
    folder = asked.value("folder", "none")
    if folder == "none":
        return About()
    scan = scan_folder(find_folder(folder), EXTENSIONS, [Path(root) for root in dataset_roots()])
    without = sum(found.caption is None for found in scan.found)
    kept = "captions that are there are replaced" if asked.value("overwrite") else "others stay"
    return About([f"{without} of {len(scan.found)} pictures have no caption; {kept}."])


def _tell_loras(asked: Asked, deep: bool) -> About:
    uses = parse_stack(asked.value("files", ""))
    named = [f"{use.label} {use.model_weight:g}" for use in uses]
    linked = asked.count("loras.")
    parts = ([f"{linked} connected"] if linked else []) + named
    return About([", ".join(parts) or "No LoRA: the model stays as it is."])


# ------------------------------------------------------------------------- pose, scene and video


def _poses(asked: Asked):
    """The frames of a Load Pose, None where the poses come from elsewhere."""
    name = asked.value("pose_file") if asked.kind == "TroupeLoadPose" else None
    if not name or is_hint(name):
        return None
    sides = asked.literals("canvas_width", "canvas_height")
    canvas = tuple(sides.get(f"canvas_{side}") or None for side in ("width", "height"))
    return read_pose_files(pose_paths(name), asked.value("units", "auto"), canvas)


def _tell_poses(asked: Asked, deep: bool) -> About:
    frames = _poses(asked)
    if frames is None:
        return About()
    people = max(len(frame.people) for frame in frames)
    facts = [
        f"{_count(len(frames), 'pose')} on {frames[0].width} x {frames[0].height} px, "
        f"{_count(people, 'person', 'people')}"
    ]
    places = np.linspace(0, len(frames) - 1, min(SHOWN_POSES, len(frames))).round().astype(int)
    return About(facts, picture=_strip([frames[i] for i in places]))


def _strip(frames: list) -> str:
    """Skeletons side by side as a data URL."""
    drawn = []
    for frame in frames:
        scale = STRIP_PX / max(frame.width, frame.height)
        size = (max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))
        drawn.append(Image.fromarray(draw_pose(frame, *size)))
    strip = Image.new("RGB", (sum(p.width for p in drawn), max(p.height for p in drawn)))
    left = 0
    for picture in drawn:
        strip.paste(picture, (left, 0))
        left += picture.width
    file = BytesIO()
    strip.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _tell_canvas(asked: Asked, deep: bool) -> About:
    """Width and height of nodes where 0 is the pose's own canvas."""
    frames = _poses(asked.source("pose"))
    sides = [asked.value("width", 0), asked.value("height", 0)]
    if frames:
        sides = [sides[0] or frames[0].width, sides[1] or frames[0].height]
        return About([f"{_count(len(frames), 'picture')} of {sides[0]} x {sides[1]} px"])
    return About([] if all(sides) else ["As large as the canvas of the pose."])


def _tell_scene(asked: Asked, deep: bool) -> About:
    frames, count = _poses(asked.source("pose")), asked.value("frame_count", 0)
    size = f"{asked.value('width', '?')} x {asked.value('height', '?')} px"
    if frames:
        left = max(0, len(frames) - asked.value("first_frame", 0))
        number = _count(min(count, left) if count else left, "picture")
    else:
        number = _count(count, "picture") if count else "One picture for each pose,"
    about = About([f"{number} of {size}"])
    shown = [role for role in ("character", "attire", "background") if asked.linked(role)]
    plate = asked.source("background").value("mode") == "plate"
    needing = [role for role in shown if role != "background" or not plate]
    missing = [name for name in ("ipadapter", "clip_vision") if not asked.linked(name)]
    if asked.linked("ipadapter") and asked.source("ipadapter").kind != "TroupeLoadIPAdapter":
        missing = []  # loaders of other packs may bring the image encoder along
    if needing and missing:
        wanted = {"ipadapter": "Load IP-Adapter", "clip_vision": "Load CLIP Vision"}
        about.warnings.append(
            f"The {' and '.join(needing)} need {' and '.join(wanted[m] for m in missing)}: connect."
        )
    if not asked.linked("control_net"):
        about.facts.append("Without a ControlNet the pose only says where things go.")
    return about


def _tell_background(asked: Asked, deep: bool) -> About:
    if asked.value("mode") != "plate":
        return About()
    return About(["A plate is kept as it is: weight, combine, fit and percents do not matter."])


def _tell_shot(asked: Asked, deep: bool) -> About:
    seconds = asked.value("duration", 0)
    if seconds:
        length = f"{seconds:g} s"
    elif asked.linked("video"):
        length = "As long as the video"
    else:
        length = "3 s for a still, one film frame for each picture of a batch"
    joint = asked.value("transition", FILM_DEFAULT)
    camera = asked.value("camera", "none")
    said = [length] if camera == "none" else [length, camera]
    if joint != FILM_DEFAULT:
        said.append(f"after a {joint} of {asked.value('transition_duration', 0.5):g} s")
    return About([", ".join(said)])


def _tell_timeline(asked: Asked, deep: bool) -> About:
    width, height = asked.value("width", 0), asked.value("height", 0)
    size = f"{width} x {height} px" if width and height else "size of the first shot"
    shots = _count(asked.count("shots."), "shot") if asked.count("shots.") else "No shot yet"
    sound = ", with sound" if asked.linked("audio") else ""
    return About([f"{shots}, {size}, {asked.value('fps', 24):g} frames a second{sound}"])


def _tell_film(asked: Asked, deep: bool) -> About:
    crf = asked.value("crf", -1)
    preset = with_quality(preset_named(asked.value("preset", "h264")), None if crf < 0 else crf)
    quality = f", CRF {preset.crf:g}" if preset.crf is not None else ""
    return About([f".{preset.extension}, {preset.codec}{quality}, sound {preset.audio_codec}"])


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


TELLERS: dict[str, Tell] = {
    "TroupeTrainLora": _tell_training,
    **dict.fromkeys(OPTIONS, _tell_options),
    "TroupeLoadDataset": _tell_dataset,
    "TroupeCaptionImages": _tell_captions,
    "TroupeApplyLoras": _tell_loras,
    "TroupeLoadPose": _tell_poses,
    "TroupeDrawPose": _tell_canvas,
    "TroupePoseRegions": _tell_canvas,
    "TroupeComposeScene": _tell_scene,
    "TroupeBackground": _tell_background,
    "TroupeShot": _tell_shot,
    "TroupeTimeline": _tell_timeline,
    "TroupeSaveVideo": _tell_film,
}
