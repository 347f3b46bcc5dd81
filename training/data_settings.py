"""The sections of a job about how pictures and captions vary, and which of them count."""

from typing import Literal

from .fields import Section, outside, setting

TOKENS = (75, 150, 225, 300)  # a text encoder reads 75 at a time


class CaptionSettings(Section):
    """How captions vary while training; the text encoders are cached all the same."""

    prefix: str = setting(
        "", "Text before every caption, never shuffled or dropped.", max_length=1000
    )
    suffix: str = setting(
        "", "Text behind every caption, never shuffled or dropped.", max_length=1000
    )
    shuffle: bool = setting(False, "Shuffle the tags, the parts of a caption between commas.")
    keep_tags: int = setting(
        0,
        "So many tags at the front are neither shuffled nor dropped. The trigger's tag never is.",
        ge=0,
        le=100,
    )
    tag_dropout: float = setting(0.0, "Chance that a tag is left out.", ge=0, le=1)
    dropout: float = setting(
        0.0, "Chance that a picture is shown with an empty caption.", ge=0, le=1
    )
    wildcards: bool = setting(True, "In a caption {red|blue} means one of them by chance.")
    variants: int = setting(
        8, "Encoded versions of each caption, where anything in it is random.", ge=1, le=256
    )
    max_tokens: Literal[TOKENS] = setting(
        225, "Longer captions are cut, and named in a warning; ComfyUI reads any length."
    )


class AugmentSettings(Section):
    """How pictures vary while training; every version is encoded once and cached."""

    flip: bool = setting(False, "Show every other version mirrored; not for what has a side.")
    zoom: float = setting(
        0.0, "Cut in by a random share up to this, for example 0.1.", ge=0, le=0.5
    )
    brightness: float = setting(0.0, "Random change of brightness, up to this share.", ge=0, le=0.9)
    contrast: float = setting(0.0, "Random change of contrast, up to this share.", ge=0, le=0.9)
    saturation: float = setting(0.0, "Random change of saturation, up to this share.", ge=0, le=1)
    hue: float = setting(0.0, "Random turn of the hue, up to this share of a turn.", ge=0, le=0.5)
    variants: int = setting(
        4,
        "Encoded versions of each picture, where anything in it is random (also buckets.crop).",
        ge=1,
        le=64,
    )


class MaskSettings(Section):
    """How masks weigh the loss; which masks there are is said by the dataset."""

    unmasked_weight: float = setting(
        0.1, "What lies outside of a mask counts this much; 0 = it may become anything.", ge=0, le=1
    )
    unmasked_chance: float = setting(
        0.0, "Chance that a picture is learnt whole, as if it had no mask.", ge=0, le=1
    )


class PriorSettings(Section):
    """Regularisation pictures: what the model shall not forget."""

    weight: float = setting(1.0, "Weight of the regularisation pictures in the loss.", ge=0, le=100)
    ratio: float = setting(
        1.0,
        "Regularisation pictures per training picture in an epoch; they take turns.",
        ge=0,
        le=100,
    )
    target: Literal["picture", "model"] = setting(
        "picture",
        "What regularisation pictures are held to: the pictures themselves, or what the model "
        "without adapter makes of them, which keeps it closest to what it was (one forward pass "
        "more).",
    )


class CacheSettings(Section):
    """The folder of encoded pictures and captions."""

    limit_gb: float = outside(
        50.0,
        "When the cache is larger, what has not been used for longest is removed, but nothing "
        "that the present run needs or that was used within a day; 0 = never.",
        ge=0,
        le=1_000_000,
    )
