"""A node of the menu section troupe/training: what is learned, by which optimizer, how judged."""

from typing import Any

from comfy_api.v0_0_2 import io

from .runtime.types import CheckedOptions
from .training_widgets import (
    AS_PRESET,
    changed,
    from_widgets,
    laid_over,
    options_input,
    options_output,
    widget,
)

CATEGORY = "troupe/training"
FINE = {"step": 0.001, "round": 0.0001}
SETTINGS: dict[str, dict[str, Any]] = {
    "objective.weighting": {"unset": 0},
    "objective.noise_offset": FINE,
    "optimizer.kind": {},
    "optimizer.ema_decay": {"advanced": True, **FINE},
    "validation.share": {},
    "validation.every_steps": {},
    "validation.use_best": {},
    "objective.min_snr_gamma": {"advanced": True},
    "objective.loss": {"advanced": True},
    "objective.multires_levels": {"advanced": True},
    "objective.multires_discount": {"advanced": True},
    "objective.input_perturbation": {"advanced": True},
    "objective.timestep_kind": {"advanced": True},
    "objective.timestep_min": {"advanced": True},
    "objective.timestep_max": {"advanced": True},
    "objective.prediction": {"advanced": True},
    "objective.zero_terminal_snr": {"advanced": True},
    "optimizer.weight_decay": {"advanced": True, **FINE},
    "optimizer.max_grad_norm": {"advanced": True},
    "schedule.floor": {"advanced": True},
    "schedule.cycles": {"advanced": True},
}


class TroupeLearningOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeLearningOptions",
            display_name="Training Learning Options",
            category=CATEGORY,
            search_aliases=["optimizer", "prodigy", "min-snr", "noise offset", "ema", "validation"],
            description="What a training learns, which optimizer moves the weights, and how it is "
            "judged on pictures it never sees. What is left as it is stays as the preset says.",
            inputs=[
                options_input(),
                *(widget(path, **more) for path, more in SETTINGS.items()),
            ],
            outputs=[options_output()],
        )

    @classmethod
    def execute(
        cls,
        options: CheckedOptions | None = None,
        objective_weighting: str = AS_PRESET,
        objective_noise_offset: float = 0.0,
        optimizer_kind: str = "adamw",
        optimizer_ema_decay: float = 0.0,
        validation_share: float = 0.0,
        validation_every_steps: int = 100,
        validation_use_best: bool = False,
        objective_min_snr_gamma: float = 5.0,
        objective_loss: str = "mse",
        objective_multires_levels: int = 0,
        objective_multires_discount: float = 0.3,
        objective_input_perturbation: float = 0.0,
        objective_timestep_kind: str = "uniform",
        objective_timestep_min: int = 0,
        objective_timestep_max: int = 1000,
        objective_prediction: str = "auto",
        objective_zero_terminal_snr: str = "auto",
        optimizer_weight_decay: float = 0.01,
        optimizer_max_grad_norm: float = 1.0,
        schedule_floor: float = 0.0,
        schedule_cycles: int = 1,
    ) -> io.NodeOutput:
        values = changed(from_widgets(locals(), SETTINGS))
        values["objective.weighting"] = objective_weighting  # the default, too, may be chosen
        return io.NodeOutput(laid_over(options, values))


NODES: list[type[io.ComfyNode]] = [TroupeLearningOptions]
