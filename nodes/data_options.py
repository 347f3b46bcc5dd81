"""A node of the menu section troupe/training: how pictures and captions vary while training."""

from comfy_api.v0_0_2 import io

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
SETTINGS = {
    "captions.shuffle": {},
    "captions.keep_tags": {},
    "captions.dropout": {},
    "captions.tag_dropout": {"advanced": True},
    "captions.variants": {"advanced": True},
    "augment.flip": {},
    "buckets.crop": {},
    "augment.zoom": {"advanced": True},
    "augment.brightness": {"advanced": True},
    "augment.contrast": {"advanced": True},
    "augment.saturation": {"advanced": True},
    "augment.hue": {"advanced": True},
    "augment.variants": {"advanced": True},
    "masks.unmasked_weight": {},
    "masks.unmasked_chance": {"advanced": True},
    "prior.weight": {},
    "prior.ratio": {"advanced": True},
}


class TroupeDataOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeDataOptions",
            display_name="Training Data Options",
            category=CATEGORY,
            search_aliases=[
                "caption dropout",
                "shuffle tags",
                "augmentation",
                "flip",
                "masked",
                "bucket",
            ],
            description="How pictures and captions vary while training, how masks count, and how "
            "much regularisation pictures do. Every version is encoded once and cached, so none "
            "of this makes training slower.",
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
        captions_shuffle: bool = False,
        captions_keep_tags: int = 0,
        captions_dropout: float = 0.0,
        captions_tag_dropout: float = 0.0,
        captions_variants: int = 8,
        augment_flip: bool = False,
        buckets_crop: str = "center",
        augment_zoom: float = 0.0,
        augment_brightness: float = 0.0,
        augment_contrast: float = 0.0,
        augment_saturation: float = 0.0,
        augment_hue: float = 0.0,
        augment_variants: int = 4,
        masks_unmasked_weight: float = 0.1,
        masks_unmasked_chance: float = 0.0,
        prior_weight: float = 1.0,
        prior_ratio: float = 1.0,
    ) -> io.NodeOutput:
        return io.NodeOutput(laid_over(options, changed(from_widgets(locals(), SETTINGS))))


NODES: list[type[io.ComfyNode]] = [TroupeDataOptions]
