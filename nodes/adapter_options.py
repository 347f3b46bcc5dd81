"""A node of the menu section troupe/training: the kind of adapter, and where it is put."""

import os

import folder_paths
from comfy_api.v0_0_2 import io

from ..training import parse_text
from .runtime.listings import model_files
from .runtime.types import CheckedOptions
from .training_widgets import (
    changed,
    from_widgets,
    laid_over,
    options_input,
    options_output,
    widget,
)

CATEGORY = "troupe/training"
NONE = "none"
RATE = {"step": 1e-6, "round": 1e-8}
SETTINGS = {
    "adapter.kind": {},
    "adapter.targets": {},
    "adapter.alpha": {"unset": 0},
    "adapter.layers": {
        "multiline": True,
        "placeholder": "up_blocks.0.attentions.1",
        "advanced": True,
    },
    "adapter.block_ranks": {"multiline": True, "placeholder": "mid_block: 32", "advanced": True},
    "adapter.block_rates": {
        "multiline": True,
        "placeholder": "down_blocks: 0.5",
        "advanced": True,
    },
    "text_encoders.learning_rate_1": RATE,
    "text_encoders.learning_rate_2": RATE,
    "adapter.dropout": {"advanced": True},
    "adapter.rank_dropout": {"advanced": True},
    "adapter.module_dropout": {"advanced": True},
    "adapter.factor": {"advanced": True, "max": 1024},
}
LATER = {  # behind start_from: saved workflows hold values in the order of the widgets
    "embedding.vectors": {"advanced": True},
    "embedding.init": {"advanced": True, "placeholder": "woman"},
}


class TroupeAdapterOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeAdapterOptions",
            display_name="Training Adapter Options",
            category=CATEGORY,
            search_aliases=[
                "dora",
                "lokr",
                "loha",
                "oft",
                "pissa",
                "locon",
                "text encoder",
                "textual inversion",
                "pivotal tuning",
                "embedding",
                "blocks",
            ],
            description="What Train SDXL LoRA trains: the kind of adapter, the layers it is put "
            "into, ranks and learning rates of single blocks, the text encoders, and a new word. "
            "Every kind is written as a file that ComfyUI's LoRA loaders apply as it was trained.",
            inputs=[
                options_input(),
                *(widget(path, **more) for path, more in SETTINGS.items()),
                io.Combo.Input(
                    "start_from",
                    options=[NONE, *model_files("loras")],
                    default=NONE,
                    optional=True,
                    tooltip="Go on from this LoRA: its effect is where training starts. For the "
                    "kinds lora and rslora; the file may be of any kind.",
                ),
                *(widget(path, **more) for path, more in LATER.items()),
            ],
            outputs=[options_output()],
        )

    @classmethod
    def fingerprint_inputs(cls, start_from: str | None = None, **_) -> str:
        if start_from in (None, NONE):
            return ""
        path = folder_paths.get_full_path("loras", start_from)
        about = os.stat(path) if path else None
        return f"{about.st_size} {about.st_mtime_ns}" if about else ""

    @classmethod
    def execute(
        cls,
        options: CheckedOptions | None = None,
        adapter_kind: str = "lora",
        adapter_targets: str = "transformer",
        adapter_alpha: float = 0.0,
        adapter_layers: str = "",
        adapter_block_ranks: str = "",
        adapter_block_rates: str = "",
        text_encoders_learning_rate_1: float = 0.0,
        text_encoders_learning_rate_2: float = 0.0,
        adapter_dropout: float = 0.0,
        adapter_rank_dropout: float = 0.0,
        adapter_module_dropout: float = 0.0,
        adapter_factor: int = -1,
        start_from: str = NONE,
        embedding_vectors: int = 0,
        embedding_init: str = "",
    ) -> io.NodeOutput:
        values = from_widgets(locals(), (*SETTINGS, *LATER))
        values["adapter.alpha"] = adapter_alpha or None
        values["adapter.layers"] = adapter_layers.replace(",", " ").split()
        for path in ("adapter.block_ranks", "adapter.block_rates"):
            values[path] = parse_text(values[path], path)
        values = changed(values)
        if start_from != NONE:
            path = folder_paths.get_full_path_or_raise("loras", start_from)
            values["adapter.start_from"] = path
        return io.NodeOutput(laid_over(options, values))


NODES: list[type[io.ComfyNode]] = [TroupeAdapterOptions]
