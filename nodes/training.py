"""Nodes of the menu section troupe/training that train LoRAs and apply them."""

import json
import os
import re
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd1_clip
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.v0_0_2 import io, ui

from ..training import (
    Dataset,
    DatasetError,
    JobError,
    merge,
    open_checkpoint,
    parse_job,
    unwritable,
)
from .runtime import miniature
from .runtime.combos import listed, refuse_hint
from .runtime.embeddings import keep_embeddings
from .runtime.listings import model_files
from .runtime.loras import (
    LoraUse,
    apply_loras,
    check_lora_folder,
    keep_lora,
    parse_stack,
    parse_weights,
)
from .runtime.paths import PathError, check_prefix, save_location
from .runtime.prefixes import with_dates
from .runtime.progress import sample_picture
from .runtime.trainer import free_models
from .runtime.types import CheckedOptions, TrainingOptions
from .runtime.types import Dataset as DatasetSocket
from .runtime.watch import watch_training
from .training_options import TroupeTrainingOptions
from .training_widgets import nested, preset_widget, widget

CATEGORY = "troupe/training"
LORAS = "loras"  # below output/: ComfyUI looks for LoRAs there, so a new one is at once selectable
NO_CHECKPOINT = "put an SDXL checkpoint into models/checkpoints"
MAX_LORAS = 16
TRAINING_DEVICES = re.compile(r"^(cpu|mps|cuda(:\d+)?|xpu(:\d+)?)$")


class TroupeTrainLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeTrainLora",
            display_name="Train SDXL LoRA",
            category=CATEGORY,
            search_aliases=[
                "train lora",
                "lora training",
                "dreambooth",
                "fine-tune",
                "finetune",
                "style",
                "concept",
            ],
            description="Train an SDXL LoRA in a process of its own. Interrupting saves the full "
            "state, and queueing the same prompt again goes on from there; a finished training "
            "is not repeated. The file appears in output/loras, where Load LoRA finds it.",
            inputs=_train_inputs(),
            outputs=[
                io.LoraModel.Output(
                    display_name="lora", tooltip="For Apply LoRAs or core's Load LoRA Model."
                ),
                io.String.Output(
                    display_name="lora name",
                    tooltip="Name of the file for LoRA loaders.",
                ),
                io.LossMap.Output(display_name="loss map", tooltip="For core's Plot Loss Graph."),
                io.Image.Output(
                    display_name="samples",
                    tooltip="Sample pictures at the end: without the LoRA on the left, with it on "
                    "the right.",
                ),
                io.Image.Output(display_name="loss plot", tooltip="The loss over all steps."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls, checkpoint: str | None = None, filename_prefix: str | None = None
    ) -> bool | str:
        try:
            # None: linked, known only when it runs; the miniature's file is made only then, too
            if checkpoint not in (None, miniature.NAME):
                _checkpoint_path(checkpoint)
        except (PathError, JobError) as error:
            return str(error)
        return check_prefix(filename_prefix, _loras_folder())

    @classmethod
    def fingerprint_inputs(
        cls, checkpoint: str | None = None, filename_prefix: str | None = None, **_
    ) -> str:
        path = checkpoint and folder_paths.get_full_path("checkpoints", checkpoint)
        if not path:
            return ""
        about = os.stat(path)
        return f"{about.st_size} {about.st_mtime_ns} {with_dates(filename_prefix or '')}"

    @classmethod
    def execute(
        cls,
        checkpoint: str,
        dataset: Dataset,
        preset: str,
        steps: int = 0,
        rank: int = 0,
        learning_rate: float = 0.0,
        resolution: int = 0,
        seed: int = 0,
        sample_prompts: str = "",
        sample_every: int = 0,
        filename_prefix: str = "my_lora",
        options: CheckedOptions | None = None,
    ) -> io.NodeOutput:
        folder, stem, _, subfolder = save_location(filename_prefix, cls.hidden, _loras_folder())
        check_lora_folder(folder, stem)
        widgets = own_settings(
            steps, rank, learning_rate, resolution, seed, sample_prompts, sample_every
        )
        values = merge(merge(widgets, options or {}), _fixed(checkpoint, dataset, stem))
        job = parse_job(values, preset).model_dump(mode="json")
        open_checkpoint(job["base"]["checkpoint"])  # refuse what cannot be trained at once
        free_models()
        done, warnings = watch_training(job, _troupe_folder() / "logs", cls.hidden)
        name = keep_lora(Path(done["lora"]), folder, stem, _loras_folder())
        said, files = keep_embeddings(done, name, job["embedding"]["name"])
        shown = _train_result(cls, done, name, subfolder, said + warnings)
        shown.ui["files"] += files
        return shown


def _train_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "checkpoint",
            options=listed(model_files("checkpoints"), NO_CHECKPOINT),
            tooltip="The SDXL checkpoint to train on: a .safetensors file with UNet, text "
            "encoders and VAE. Use the LoRA with it or with its relatives.",
        ),
        DatasetSocket.Input("dataset", tooltip="From Load Dataset or Dataset from Images."),
        preset_widget(),
        widget("schedule.steps", "steps", unset=0),
        widget("adapter.rank", "rank", unset=0),
        widget("optimizer.learning_rate", "learning_rate", unset=0, step=1e-6, round=1e-8),
        widget("buckets.resolution", "resolution", step=64),
        widget(
            "seed",
            "seed",
            max=0xFFFFFFFFFFFFFFF,
            # Rolled after each run, every run would be another training: none would ever go on.
            control_after_generate=io.ControlAfterGenerate.fixed,
        ),
        io.String.Input(
            "sample_prompts",
            default="",
            multiline=True,
            optional=True,
            placeholder="sample prompts, one per line",
            tooltip="One prompt per line for the sample pictures; empty: the first caption.",
        ),
        widget("samples.every_steps", "sample_every"),
        io.String.Input(
            "filename_prefix",
            default="my_lora",
            optional=True,
            tooltip="Name of the LoRA file below output/loras; may hold a subfolder, and "
            "%date:yyyy-MM-dd% or %NODE.WIDGET% as in Save Image. The same content keeps its name, "
            "another one gets a number.",
        ),
        TrainingOptions.Input(
            "options",
            optional=True,
            tooltip="From Training Options; what is set there wins over this node's widgets.",
        ),
    ]


def own_settings(
    steps: int = 0,
    rank: int = 0,
    learning_rate: float = 0.0,
    resolution: int = 0,
    seed: int = 0,
    sample_prompts: str = "",
    sample_every: int = 0,
) -> dict[str, Any]:
    """The settings that Train SDXL LoRA's own widgets make; 0 leaves one to preset and options."""
    return nested(
        {
            "seed": seed,
            "schedule.steps": steps or None,
            "adapter.rank": rank or None,
            "optimizer.learning_rate": learning_rate or None,
            "buckets.resolution": resolution or None,
            "samples.every_steps": sample_every,
            "samples.prompts": [p.strip() for p in sample_prompts.splitlines() if p.strip()],
        }
    )


class TroupeApplyLoras(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        either = io.MultiType.Input(
            "lora",
            types=[io.LoraModel, io.String],
            optional=True,
            tooltip="A LoRA from Train SDXL LoRA, or the name of a LoRA file.",
        )
        return io.Schema(
            node_id="TroupeApplyLoras",
            display_name="Apply LoRAs",
            category=CATEGORY,
            search_aliases=["lora stack", "load lora", "lora loader", "multiple loras"],
            description="Apply any number of LoRAs to a model: connected ones, files by name, or "
            "both. Keys that fit no layer are reported, never silently dropped.",
            inputs=[
                io.Model.Input("model", tooltip="The model the LoRAs are applied to."),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoders; needed for LoRAs that trained them or hold a word.",
                ),
                io.Autogrow.Input(
                    "loras",
                    optional=True,
                    template=io.Autogrow.TemplatePrefix(
                        either, prefix="lora", min=0, max=MAX_LORAS
                    ),
                    tooltip="LoRAs from Train SDXL LoRA, or names of LoRA files.",
                ),
                io.String.Input(
                    "weights",
                    default="1.0",
                    optional=True,
                    tooltip="Weights of the connected LoRAs in order, separated by commas; the "
                    "last one holds for all that follow. '0.8/0.5' gives model and text encoder "
                    "weights of their own.",
                ),
                io.String.Input(
                    "files",
                    default="",
                    multiline=True,
                    optional=True,
                    placeholder="zoe.safetensors: 0.8",
                    tooltip="LoRA files below models/loras or output/loras, one per line, as "
                    "'name: weight' or 'name: model weight/text encoder weight'.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with all LoRAs."),
                io.Clip.Output(display_name="clip", tooltip="The text encoders with all LoRAs."),
                io.String.Output(
                    display_name="report", tooltip="What was applied, and keys that fit nowhere."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, files: str | None = None, **_) -> list:
        try:
            return [use.fingerprint() for use in parse_stack(files or "")]
        except (PathError, ValueError) as error:
            return [str(error)]

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any = None,
        loras: dict[str, Any] | None = None,
        weights: str = "1.0",
        files: str = "",
    ) -> io.NodeOutput:
        connected = [v for v in (loras or {}).values() if v is not None]
        pairs = parse_weights(weights, len(connected))
        uses = [
            LoraUse.of(value, *pair, label=f"LoRA {i + 1}")
            for i, (value, pair) in enumerate(zip(connected, pairs, strict=True))
        ]
        model, clip, report = apply_loras(model, clip, uses + parse_stack(files))
        return io.NodeOutput(model, clip, report, ui=ui.PreviewText(report))


def _troupe_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / "troupe"


def _loras_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / LORAS


def _checkpoint_path(name: str) -> str:
    refuse_hint(name)
    if name == miniature.NAME:  # from Load Miniature: the combo does not list it
        return str(miniature.checkpoint_file())
    path = folder_paths.get_full_path("checkpoints", name)
    if path is None:
        raise JobError(f"checkpoint {name!r} is not in models/checkpoints: choose another.")
    return path


def _fixed(checkpoint: str, dataset: Dataset, stem: str) -> dict[str, Any]:
    """What is decided here and not in options: where things lie, and the data."""
    path = _checkpoint_path(checkpoint)
    if not dataset.items:
        raise DatasetError(f"Dataset {dataset.name!r} holds no usable picture: see its report.")
    device = str(comfy.model_management.get_torch_device())
    tokenizer = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"
    return {
        "name": _run_name(stem),
        "base": {"checkpoint": path, "tokenizer": str(tokenizer)},
        "dataset": {"items": dataset.items, "name": dataset.name},
        "memory": {"device": device if TRAINING_DEVICES.match(device) else "auto"},
        "folders": {
            "runs": str(_troupe_folder() / "runs"),
            "cache": str(_troupe_folder() / "cache"),
        },
    }


def _run_name(stem: str) -> str:
    name = re.sub(r"[^\w .()+@-]", "_", stem).lstrip(" .()+@-")[:100].rstrip(" .")
    return f"lora_{name}" if unwritable(name) else name or "lora"


def _train_result(
    cls: type[io.ComfyNode], done: dict, name: str, subfolder: str, warnings: list[str]
) -> io.NodeOutput:
    path = _loras_folder() / name
    with torch.inference_mode(False):  # plain tensors, which other nodes may train on
        tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
        lora = {key: tensor.clone() for key, tensor in tensors.items()}  # lets go of the file
        samples = _picture_batch([sample_picture(*pair) for pair in done["samples"]])
        plot = _picture_batch([sample_picture(done["plot"], None)] if done["plot"] else [])
    losses = json.loads(Path(done["losses"]).read_text("utf-8"))["loss"]
    finite = [x for x in losses if x is not None]
    again = " (already trained)" if done["reused"] else ""
    lines = [f"{name}: {done['steps']} steps, loss {done['loss'] or 0:.4f}{again}"]
    if scores := done["validation"]:
        used = next((f"{loss:.4f}" for step, loss in scores if step == done["used_step"]), "?")
        lines.append(
            f"validation loss {scores[0][1]:.4f} at first, {used} in the file (step "
            f"{done['used_step']})"
        )
    lines += warnings
    shown = {
        "text": ["\n".join(lines)],
        "files": [{"filename": path.name, "subfolder": subfolder, "type": "output"}],
        **ui.PreviewImage(samples if done["samples"] else plot, cls=cls).as_dict(),
    }
    return io.NodeOutput(lora, name, {"loss": finite}, samples, plot, ui=shown)


def _picture_batch(pictures: list) -> torch.Tensor:
    """(B, H, W, 3) in [0, 1]; a black pixel block where there is none."""
    if not pictures:
        return torch.zeros(1, 64, 64, 3)
    arrays = [np.asarray(p, dtype=np.float32) / 255.0 for p in pictures]
    return torch.from_numpy(np.stack(arrays))


NODES: list[type[io.ComfyNode]] = [TroupeTrainLora, TroupeTrainingOptions, TroupeApplyLoras]
