"""The sections of a job that say what is learned, how weights move, and how it is judged."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .diffusion import PREDICTIONS, TRAIN_STEPS
from .fields import Section as _Section
from .fields import outside as _outside
from .fields import setting as _setting
from .losses import LOSSES, THRESHOLDS
from .optimize import LIBRARIES, OPTIMIZERS, OTHER, check_name
from .schedules import SCHEDULES
from .timesteps import TIMESTEPS
from .weighting import WEIGHTINGS

Option = bool | int | float | Annotated[str, Field(max_length=100)] | list[float] | None


class ObjectiveSettings(_Section):
    """What the model is asked to predict."""

    prediction: Literal[("auto", *PREDICTIONS)] = _setting(
        "auto", "What the UNet predicts; auto: what the checkpoint was trained for."
    )
    zero_terminal_snr: Literal["auto", "on", "off"] = _setting(
        "auto",
        "Rescale the noise so that the last step holds no picture at all (arXiv 2305.08891), for "
        "v-prediction; auto: as the checkpoint was trained.",
    )
    loss: Literal[tuple(LOSSES)] = _setting(
        "mse", "What an error costs; the Huber kinds mind single wild values less."
    )
    huber_threshold: float = _setting(
        0.1, "Error above which a Huber loss grows straight instead of squared.", gt=0, le=10
    )
    huber_schedule: Literal[tuple(THRESHOLDS)] = _setting(
        "snr", "How that threshold follows the noise."
    )
    weighting: Literal[tuple(WEIGHTINGS)] = _setting(
        "none", "How much each noise level counts; min_snr learns steadily."
    )
    min_snr_gamma: float = _setting(
        5.0, "Ceiling of min_snr and soft_min_snr; lower evens out more.", gt=0, le=1000
    )
    p2_gamma: float = _setting(1.0, "Exponent of the p2 weighting.", ge=0, le=10)
    noise_offset: float = _setting(
        0.0,
        "Strength of noise that shifts a whole picture, for darker darks; 0.03 to 0.1.",
        ge=0,
        le=1,
    )
    multires_levels: int = _setting(
        0, "Levels of coarser noise under the fine one; 0 = none, 6 to 10 are usual.", ge=0, le=16
    )
    multires_discount: float = _setting(
        0.3, "Strength of each coarser level beside the one before.", ge=0, le=1
    )
    input_perturbation: float = _setting(
        0.0,
        "Noise beyond what the model is asked to find, 0.1 is usual (arXiv 2301.11706).",
        ge=0,
        le=1,
    )
    noise_random_strength: bool = _setting(
        False,
        "Draw the strengths of noise_offset and input_perturbation for each picture anew, from 0 "
        "to the given ones.",
    )
    timestep_kind: Literal[tuple(TIMESTEPS)] = _setting(
        "uniform", "Which noise levels are trained how often."
    )
    timestep_mean: float = _setting(
        0.0, "Centre of logit_normal; above 0 noisier levels.", ge=-10, le=10
    )
    timestep_spread: float = _setting(1.0, "Width of logit_normal.", gt=0, le=10)
    timestep_mode_scale: float = _setting(
        1.29, "Pull of mode to the middle levels; below 0 to the ends.", ge=-1, le=1.75
    )
    timestep_strata: bool = _setting(
        False, "Spread the noise levels of a batch evenly instead of by chance."
    )
    timestep_min: int = _setting(
        0, "Lowest noise step that is trained (0 = least noise).", ge=0, le=TRAIN_STEPS - 1
    )
    timestep_max: int = _setting(
        TRAIN_STEPS, "Noise steps below this one are trained.", ge=1, le=TRAIN_STEPS
    )

    @model_validator(mode="after")
    def _ordered(self):
        if self.timestep_min >= self.timestep_max:
            raise ValueError("timestep_min must be below timestep_max")
        return self


class OptimizerSettings(_Section):
    """How weights follow gradients."""

    kind: Literal[tuple(OPTIMIZERS)] = _setting(
        "adamw", "Optimizer; adamw is a safe choice, prodigy finds the learning rate itself."
    )
    name: str = _setting(
        "",
        "With kind other: library:Name of an optimizer, for example pytorch_optimizer:CAME. "
        f"Libraries: {', '.join(LIBRARIES)}.",
        max_length=100,
    )
    options: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], Option] = _setting(
        {}, "Further arguments of the optimizer by their own names, for example d_coef of prodigy."
    )
    learning_rate: float = _setting(
        1e-4,
        "Learning rate: higher learns faster, and breaks sooner. prodigy finds its own.",
        gt=0,
        le=1,
    )
    up_factor: float = _setting(
        1.0,
        "Learning rate of a LoRA's up matrices as a multiple of the down matrices' (LoRA+, arXiv "
        "2402.12354); 1 = the same, 4 to 16 learn faster.",
        gt=0,
        le=1000,
    )
    weight_decay: float = _setting(
        0.01, "Pull of the weights towards zero, per unit of learning rate.", ge=0, le=10
    )
    beta1: float = _setting(0.9, "Memory of the gradient's mean.", ge=0, lt=1)
    beta2: float = _setting(0.999, "Memory of the gradient's square.", ge=0, lt=1)
    epsilon: float = _setting(1e-8, "Added to the divisor for stability.", gt=0, le=0.01)
    max_grad_norm: float = _setting(
        1.0, "Gradients longer than this are shortened to it; 0 = never.", ge=0, le=1e6
    )
    max_grad_value: float = _setting(
        0.0, "Single gradient values are cut to this size; 0 = never.", ge=0, le=1e6
    )
    weights: Literal["fp32", "bf16"] = _setting(
        "fp32",
        "Number format the adapter is kept in; bf16 halves its memory, and rounds by chance so "
        "that small steps are not lost.",
    )
    ema_decay: float = _setting(
        0.0,
        "Keep a running mean of the weights for samples, validation and the file: share of the "
        "old mean in each step, such as 0.99 or 0.999; 0 = off.",
        ge=0,
        lt=1,
    )

    @model_validator(mode="after")
    def _named(self):
        if (self.kind == OTHER) != bool(self.name):
            raise ValueError(
                "optimizer.name goes with optimizer.kind other: set both, or none of them"
            )
        if self.name:
            check_name(self.name)
        if self.ema_decay and OPTIMIZERS[self.kind].averages:
            raise ValueError(f"{self.kind} averages its weights itself: set ema_decay to 0")
        return self


class ScheduleSettings(_Section):
    """How long, and how the learning rate runs."""

    steps: int = _setting(1500, "Number of training steps.", ge=1, le=1_000_000)
    kind: Literal[tuple(SCHEDULES)] = _setting("cosine", "Curve of the learning rate.")
    warmup: float = _setting(
        0.0, "Share of the steps in which the learning rate rises from nearly zero.", ge=0, le=1
    )
    floor: float = _setting(0.0, "Share of the learning rate the curve ends at.", ge=0, le=1)
    cycles: int = _setting(1, "Falls of cosine, each from the full rate.", ge=1, le=1000)
    decay: float = _setting(0.2, "Share of the steps in which wsd falls, at the end.", gt=0, le=1)
    power: float = _setting(2.0, "Exponent of polynomial; 1 is a straight line.", gt=0, le=10)


class ValidationSettings(_Section):
    """Pictures kept out of training, and how well the model does on them."""

    share: float = _setting(
        0.0,
        "Share of the pictures kept out of training for validation, at least one; 0 = none.",
        ge=0,
        le=0.5,
    )
    folder: str = _outside(
        "",
        "Folder of further pictures for validation, with captions like the dataset's.",
        max_length=4096,
    )
    every_steps: int = _outside(
        100,
        "Measure the validation loss every so many steps; 0 = only at the end.",
        ge=0,
        le=1_000_000,
    )
    pictures: int = _outside(
        16, "How many pictures are measured at most; always the same ones.", ge=1, le=10_000
    )
    timesteps: int = _outside(
        4, "Noise levels each picture is measured at, with the same noise every time.", ge=1, le=50
    )
    use_best: bool = _outside(
        False, "Write the LoRA of the lowest validation loss instead of the last one."
    )
