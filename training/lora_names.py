"""What the layers of SDXL are called in the LoRA files of different programs.

One layer has one name here: diffusers' for the UNet (`down_blocks.1.attentions.0...`), and
`text_encoder.text_model...`, `text_encoder_2.text_model...` for the text encoders. Underscores lose
the word boundaries, so foreign names are looked up in a table and never taken apart.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache

from .keys import unet_module_table
from .targets import TEXT_ENCODERS, UNET

KOHYA, DIFFUSERS = "kohya", "diffusers"
STYLES = {
    KOHYA: "sd-scripts' names (lora_unet_..., lora_te1_...), which every program reads",
    DIFFUSERS: "diffusers' and PEFT's names (unet...lora_A.weight)",
}
KOHYA_UNET = "lora_unet_"
KOHYA_TEXT = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
COMFY_TEXT = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
TEXT_PROJECTION = "text_projection"  # of the second text encoder; OneTrainer trains it
TEXT_DEPTH = 32  # layers of the deeper text encoder
_TEXT_PARTS = (
    *(f"self_attn.{p}_proj" for p in ("q", "k", "v", "out")),
    *("mlp.fc1", "mlp.fc2"),
)
SDXL_UNET = {
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
}


def text_names(model: str) -> list[str]:
    """Names of every layer a text encoder may have an adapter in, deeper ones later."""
    layers = [
        f"{model}.text_model.encoder.layers.{i}.{part}"
        for i in range(TEXT_DEPTH)
        for part in _TEXT_PARTS
    ]
    return layers + ([f"{model}.{TEXT_PROJECTION}"] if model == TEXT_ENCODERS[1] else [])


def kohya_stem(name: str, sgm: Mapping[str, str]) -> str:
    """A layer's key in a file of sd-scripts' kind, up to the first dot.

    Args:
        sgm: diffusers name -> sgm name of the UNet's layers.
    """
    model = model_of(name)
    if model == UNET:
        return KOHYA_UNET + sgm[name].replace(".", "_")
    return KOHYA_TEXT[model] + name.removeprefix(f"{model}.").replace(".", "_")


def diffusers_stem(name: str) -> str:
    """A layer's key in a file of diffusers' kind, up to `.lora_A`."""
    return f"unet.{name}" if model_of(name) == UNET else name


def model_of(name: str) -> str:
    """Which model a layer belongs to: "unet", "text_encoder" or "text_encoder_2"."""
    first = name.partition(".")[0]
    return first if first in TEXT_ENCODERS else UNET


class Names:
    """The layers of one UNet and of its text encoders, in every spelling.

    Args:
        unet_config: a UNet2DConditionModel config; full SDXL's by default.
    """

    def __init__(self, unet_config: Mapping = SDXL_UNET):
        self.sgm = {ours: sgm for sgm, ours in unet_module_table(unet_config).items()}
        self.known: dict[str, str] = {}
        self.layers = {*self.sgm, *(n for m in TEXT_ENCODERS for n in text_names(m))}
        for name in [*self.sgm, *(n for m in TEXT_ENCODERS for n in text_names(m))]:
            for alias in self._spellings(name):
                self.known.setdefault(alias, name)

    def _spellings(self, name: str) -> Iterator[str]:
        yield kohya_stem(name, self.sgm)
        yield diffusers_stem(name)
        yield name
        model = model_of(name)
        if model != UNET:
            inner = name.removeprefix(f"{model}.")
            yield f"{model}.{inner.removeprefix('text_model.')}"
            yield f"text_encoders.{COMFY_TEXT[model]}.transformer.{inner}"
            if model == TEXT_ENCODERS[0]:
                yield f"lora_te_{inner.replace('.', '_')}"
            return
        flat = name.replace(".", "_")
        yield from (f"{KOHYA_UNET}{flat}", f"lycoris_{flat}", f"base_model.model.{name}")
        yield f"unet.base_model.model.{name}"
        yield f"diffusion_model.{self.sgm[name]}"
        old = name.replace(".to_", ".processor.to_").replace(".to_out.0", ".to_out")
        if old != name:
            yield from (old, f"unet.{old}")

    def style_of(self, stem: str, name: str | None) -> str:
        """What to call the spelling of a layer: "kohya", "diffusers", "other" or "unknown"."""
        if name is None:
            return "unknown"
        return next((s for s in STYLES if stem == self.stem(name, s)), "other")

    def stem(self, name: str, style: str) -> str:
        """A layer's stem in "kohya" or "diffusers" style."""
        return kohya_stem(name, self.sgm) if style == KOHYA else diffusers_stem(name)


@lru_cache(maxsize=1)
def sdxl_names() -> Names:
    """The names of full SDXL, which hold for its pruned relatives (SSD-1B, Vega) as well."""
    return Names()
