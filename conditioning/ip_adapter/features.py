"""From pictures to encoder features to tokens: what the model is told with, and what without.

A reference is answered by its absence in the unconditional pass. Adapters were trained with
references dropped as zeros *after* normalisation (tencent-ailab/IP-Adapter, tutorial_train_plus),
so that is the default here; a black picture or pictures of what to avoid are the alternatives.
"""

from dataclasses import dataclass

import torch

from .adapter import AdapterModule
from .errors import IPAdapterError
from .weights import POOLED, AdapterSpec, encoder_name

NEGATIVES = ("zeros", "black")
COMBINES = ("concat", "average")


@dataclass(frozen=True, eq=False)
class ReferenceEmbeds:
    """Encoded reference pictures, ready for any adapter that reads the same encoder output.

    Attributes:
        features: (R, E) pooled or (R, S, E) sequence, one for each picture.
        negative: the same for "no reference", (1, E) or (1, S, E).
        feature: which output of the encoder this is.
    """

    features: torch.Tensor
    negative: torch.Tensor
    feature: str


@dataclass(frozen=True, eq=False)
class ReferenceTokens:
    """Attention tokens of a reference.

    Attributes:
        positive: (1, T, D), or (F, T, D) with one picture for each frame.
        negative: (1, T, D).
    """

    positive: torch.Tensor
    negative: torch.Tensor

    @property
    def frames(self) -> int:
        return self.positive.shape[0]

    def to(self, device: torch.device) -> "ReferenceTokens":
        return ReferenceTokens(self.positive.to(device), self.negative.to(device))


def pad_to_square(images: torch.Tensor, colour: tuple[float, float, float]) -> torch.Tensor:
    """(R, H, W, 3) -> (R, S, S, 3) with S = max(H, W); the picture stays whole, in the middle."""
    count, height, width, _ = images.shape
    side = max(height, width)
    if height == width:
        return images
    square = images.new_tensor(colour).expand(count, side, side, 3).clone()
    top, left = (side - height) // 2, (side - width) // 2
    square[:, top : top + height, left : left + width] = images
    return square


def check_images(images: torch.Tensor, what: str = "reference pictures") -> torch.Tensor:
    """(R, H, W, 3) float 0..1; an alpha channel is dropped.

    Raises:
        IPAdapterError: not a batch of colour pictures.
    """
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) != 4 or shape[3] < 3 or 0 in shape:
        raise IPAdapterError(f"The {what} must be (pictures, height, width, 3), but are {shape}.")
    return images[..., :3].detach().float().nan_to_num(0.0).clamp(0, 1)


def check_features(features: torch.Tensor | None, spec: AdapterSpec) -> None:
    """Refuse the output of an encoder that the adapter was not trained with.

    Raises:
        IPAdapterError: names the encoder that was given and the one that is needed.
    """
    ndim = 2 if spec.feature == POOLED else 3
    if features is not None and features.ndim == ndim and features.shape[-1] == spec.feature_dim:
        return
    given = "none that makes it"
    if features is not None:
        given = encoder_name(spec.feature, features.shape[-1])
    raise IPAdapterError(
        f"{spec.label} was trained with {spec.encoder}, but the CLIP vision model is {given}: "
        f"load {_encoder_file(spec)} in Load CLIP Vision, or an adapter made for this encoder."
    )


def _encoder_file(spec: AdapterSpec) -> str:
    files = {
        "CLIP-ViT-H-14": "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
        "CLIP-ViT-bigG-14": "CLIP-ViT-bigG-14-laion2B-39B-b160k.safetensors",
    }
    return files.get(spec.encoder, "the encoder that belongs to the adapter")


def project_tokens(
    module: AdapterModule, embeds: ReferenceEmbeds, *, combine: str, per_frame: bool
) -> ReferenceTokens:
    """Tokens of a reference; several pictures are joined as `combine` says.

    "concat" lets the model choose among the tokens of all pictures, "average" blends the pictures
    before the projector. With `per_frame` every picture stays on its own. Repeating the negative
    tokens changes nothing in a softmax, it only gives both passes the same number of tokens.
    """
    features = embeds.features
    if combine == "average" and not per_frame:
        features = features.mean(dim=0, keepdim=True)
    positive = module.tokens(features)
    negative = module.tokens(embeds.negative)
    if not per_frame:
        negative = negative.repeat(1, positive.shape[0], 1)
        positive = positive.flatten(0, 1).unsqueeze(0)
    return ReferenceTokens(positive, negative)
