"""Widgets made from the fields of TrainingJob: bounds, choices and help text live there."""

from collections.abc import Iterable, Mapping
from typing import Any

from comfy_api.v0_0_2 import io

from ..training import (
    CARDS_GB,
    PRESETS,
    JobError,
    all_settings,
    merge,
    parse_job,
    parse_text,
    setting,
)
from ..training.settings import PATHS
from .runtime.types import CheckedOptions, TrainingOptions

AS_PRESET = "as preset"
FREE = "what is free"
CARDS = {f"{size} GB": size for size in CARDS_GB}
# What a workflow may not decide: where files lie, and what has a node or a widget of its own.
RESERVED = ("version", "name", "preset", "base", "dataset", "folders", "memory.device")

# What a setting is called on a node where its field alone does not say it.
NAMES = {
    "adapter.block_ranks": "ranks of blocks",
    "adapter.block_rates": "learning rates of blocks",
    "adapter.factor": "LoKr factor",
    "adapter.layers": "only these layers",
    "augment.variants": "versions of a picture",
    "batch.accumulation": "gradient accumulation",
    "batch.size": "batch size",
    "buckets.upscale": "enlarge small pictures",
    "captions.dropout": "caption dropout",
    "captions.keep_tags": "tags kept in front",
    "captions.shuffle": "shuffle tags",
    "captions.variants": "versions of a caption",
    "embedding.init": "new word starts as",
    "embedding.vectors": "vectors of a new word",
    "masks.unmasked_chance": "steps without masks",
    "masks.unmasked_weight": "weight outside masks",
    "objective.input_perturbation": "input perturbation",
    "objective.min_snr_gamma": "min-SNR gamma",
    "objective.multires_discount": "multires noise discount",
    "objective.multires_levels": "multires noise levels",
    "objective.prediction": "prediction type",
    "objective.timestep_kind": "timestep distribution",
    "objective.timestep_max": "highest timestep",
    "objective.timestep_min": "lowest timestep",
    "objective.weighting": "loss weighting",
    "objective.zero_terminal_snr": "zero terminal SNR",
    "optimizer.ema_decay": "EMA decay",
    "optimizer.kind": "optimizer",
    "optimizer.max_grad_norm": "gradient clipping",
    "prior.ratio": "regularisation ratio",
    "prior.weight": "regularisation weight",
    "samples.every_steps": "sample every (steps)",
    "samples.negative": "negative prompt of samples",
    "samples.without_lora": "samples without LoRA",
    "saving.every_steps": "save every (steps)",
    "saving.precision": "precision of the file",
    "schedule.cycles": "schedule restarts",
    "schedule.floor": "schedule floor",
    "schedule.kind": "schedule",
    "text_encoders.learning_rate_1": "text encoder 1 learning rate",
    "text_encoders.learning_rate_2": "text encoder 2 learning rate",
    "validation.every_steps": "validate every (steps)",
    "validation.share": "validation share",
    "validation.use_best": "use the best state",
}


def preset_widget() -> io.Input:
    """The starting points."""
    listed = "; ".join(f"{p.name}: {p.help}" for p in PRESETS.values())
    return io.Combo.Input(
        "preset",
        options=list(PRESETS),
        tooltip="Sets steps, rank, learning rate, schedule and weighting; any widget that is not 0 "
        f"and any option wins over it. {listed}.",
    )


def card_widget(id: str) -> io.Input:
    """How much memory a run is planned for."""
    return io.Combo.Input(
        id,
        display_name="plan for a card of",
        options=[FREE, *CARDS],
        default=FREE,
        optional=True,
        tooltip="Memory of the graphics card that training is planned for. Whatever it is, the "
        "result is the same: what does not fit is computed twice or waits in main memory, as "
        "little as has to be. what is free: measured when training starts.",
    )


def widget(path: str, id: str = "", unset: float | None = None, **more: Any) -> io.Input:
    """The widget of setting "section.field", always optional.

    Args:
        id: name of the input; by default the path with an underscore.
        unset: a value below the setting's range that leaves it to the preset; a choice gets
            AS_PRESET instead.
    """
    about = setting(path)
    id = id or path.replace(".", "_")
    name = NAMES.get(path, path.rpartition(".")[2].replace("_", " "))
    common = {"display_name": name, "optional": True, "tooltip": about.description, **more}
    if about.kind == "choice":
        options = ([AS_PRESET] if unset is not None else []) + list(about.choices)
        default = AS_PRESET if unset is not None else about.default
        return io.Combo.Input(id, options=options, default=default, **common)
    if about.kind == "bool":
        return io.Boolean.Input(id, default=about.default, **common)
    if about.kind in ("text", "list"):
        return io.String.Input(id, default=about.default or "", **common)
    if unset is not None:
        common["tooltip"] += f" {unset:g} = as the preset says."
    bounds = {
        "default": about.default if unset is None else unset,
        "min": about.minimum if unset is None else unset,
        "max": about.maximum,
    }
    if about.kind == "int":
        return io.Int.Input(id, **{**bounds, "step": about.step or 1, **common})
    return io.Float.Input(id, **{**bounds, "step": 0.01, **common})


def options_input() -> io.Input:
    """Where the nodes of options are chained."""
    return TrainingOptions.Input(
        "options",
        optional=True,
        tooltip="From another options node; what is changed here is laid over it.",
    )


def options_output() -> io.Output:
    """What every node of options gives."""
    return TrainingOptions.Output(display_name="options", tooltip="For Train SDXL LoRA.")


def from_widgets(given: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """setting -> value, of a node's arguments as `widget` named them."""
    return {path: given[path.replace(".", "_")] for path in paths}


def changed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings that are not as TrainingJob has them by default."""
    return {path: value for path, value in values.items() if value != setting(path).default}


def laid_over(options: CheckedOptions | None, values: dict[str, Any]) -> CheckedOptions:
    """Options with "section.field" values laid over them.

    Raises:
        JobError: they do not go together, see `parse_job`.
    """
    return checked_options(merge(options or {}, nested(values)))


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """{"section.field": value} as sections; None and AS_PRESET are left out."""
    out: dict[str, Any] = {}
    for path, value in values.items():
        if value is None or value == AS_PRESET:
            continue
        for name in reversed(path.split(".")):
            value = {name: value}
        out = merge(out, value)
    return out


def parse_options(text: str) -> CheckedOptions:
    """Settings typed as YAML into a workflow.

    Raises:
        JobError: not YAML, unknown (names the nearest), out of range, or not for a workflow.
    """
    values = parse_text(text, "Training options")
    for path in _paths(values):
        if path in PATHS or any(path == r or path.startswith(f"{r}.") for r in RESERVED):
            raise JobError(f"Training options cannot set {path!r}: use the node's own inputs.")
    return checked_options(values)


def checked_options(values: dict[str, Any]) -> CheckedOptions:
    """Options that are valid on their own.

    Raises:
        JobError: see `parse_job`.
    """
    parse_job(merge({"base": {"checkpoint": "-"}, "dataset": {"folder": "-"}}, values))
    return CheckedOptions(values)


def _paths(values: dict[str, Any], prefix: str = "") -> list[str]:
    out = []
    for key, value in values.items():
        out.append(f"{prefix}{key}")
        if isinstance(value, dict):
            out += _paths(value, f"{prefix}{key}.")
    return out


def known_paths() -> list[str]:
    """Every setting that options may hold, for help texts."""
    return [s.path for s in all_settings() if not s.path.startswith(RESERVED)]
