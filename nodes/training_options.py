"""The node of the menu section troupe/training that holds the settings of a training itself."""

from comfy_api.v0_0_2 import io

from ..training import merge
from .training_widgets import (
    CARDS,
    FREE,
    card_widget,
    checked_options,
    nested,
    options_output,
    parse_options,
    widget,
)

CATEGORY = "troupe/training"


class TroupeTrainingOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeTrainingOptions",
            display_name="Training Options",
            category=CATEGORY,
            search_aliases=["lora options", "optimizer", "learning rate schedule", "yaml"],
            description="Expert settings for Train SDXL LoRA. Everything a job knows can be "
            "written as YAML, for example 'optimizer: {weight_decay: 0.02}'; unknown names are "
            "refused.",
            inputs=[
                widget("adapter.alpha", unset=0, advanced=True),
                widget("adapter.targets", advanced=True),
                widget("batch.size"),
                widget("batch.accumulation", advanced=True),
                widget("schedule.kind", unset=0),
                widget("schedule.warmup", unset=-1, advanced=True),
                widget("buckets.upscale", advanced=True),
                widget("memory.precision", advanced=True),
                widget("memory.gradient_checkpointing", advanced=True),
                widget("samples.negative", advanced=True),
                widget("samples.without_lora", advanced=True),
                widget("saving.every_steps"),
                widget("saving.precision", advanced=True),
                io.String.Input(
                    "yaml",
                    default="",
                    multiline=True,
                    optional=True,
                    placeholder="further settings: optimizer: {weight_decay: 0.02}",
                    tooltip="Any further settings as YAML sections; they win over the widgets. "
                    "The help page lists them all.",
                ),
                card_widget("memory_card"),
                widget("memory.base_weights", advanced=True),
                widget("memory.compile", advanced=True),
            ],
            outputs=[options_output()],
        )

    @classmethod
    def execute(
        cls,
        adapter_alpha: float = 0.0,
        adapter_targets: str = "transformer",
        batch_size: int = 1,
        batch_accumulation: int = 1,
        schedule_kind: str = "as preset",
        schedule_warmup: float = -1.0,
        buckets_upscale: bool = False,
        memory_precision: str = "auto",
        memory_gradient_checkpointing: str = "auto",
        samples_negative: str = "",
        samples_without_lora: bool = True,
        saving_every_steps: int = 250,
        saving_precision: str = "fp16",
        yaml: str = "",
        memory_card: str = FREE,
        memory_base_weights: str = "full",
        memory_compile: str = "off",
    ) -> io.NodeOutput:
        warmup = None if schedule_warmup < 0 else schedule_warmup
        widgets = nested(
            {
                "adapter.alpha": adapter_alpha or None,
                "adapter.targets": adapter_targets,
                "batch.size": batch_size,
                "batch.accumulation": batch_accumulation,
                "schedule.kind": schedule_kind,
                "schedule.warmup": warmup,
                "buckets.upscale": buckets_upscale,
                "memory.precision": memory_precision,
                "memory.gradient_checkpointing": memory_gradient_checkpointing,
                "memory.budget_gb": CARDS.get(memory_card),
                "memory.base_weights": memory_base_weights,
                "memory.compile": memory_compile,
                "samples.negative": samples_negative,
                "samples.without_lora": samples_without_lora,
                "saving.every_steps": saving_every_steps,
                "saving.precision": saving_precision,
            }
        )
        return io.NodeOutput(checked_options(merge(widgets, parse_options(yaml))))
