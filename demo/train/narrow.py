"""TAESD with fewer channels where pictures are large: the same network with most of it left out.

ComfyUI's TAESD has 64 channels at every resolution, and nearly all of its work is done at the full
one. Flat art does not need that. `NarrowVae` has a width and a number of blocks per level; `widen`
writes it in TAESD's own layout, with zeros for the channels and blocks it does without. Both
compute the same: a channel of zeros stays zero through ReLU, and a block of zeros hands on its
input, which is never negative there.
"""

import torch
from torch import nn

from miniature.widen import DECODER, ENCODER

LATENTS = 4
LATENT_GAIN = 3.0  # colours of 0..1 start as latents of -1.5..1.5


class NarrowVae(nn.Module):
    """Encoder and decoder; pictures are -1..1 and latents -3..3, as diffusers has them."""

    def __init__(self):
        super().__init__()
        self.encoder = _encoder()
        self.decoder = _decoder()

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, 4, H / 8, W / 8)."""
        return self.encoder((pixels + 1) / 2)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, 4, h, w) -> (B, 3, 8 h, 8 w)."""
        return self.decoder(torch.tanh(latents / 3) * 3) * 2 - 1


@torch.no_grad()
def start(vae: NarrowVae) -> None:
    """Weights from which learning is quick, for a network without normalisation.

    Variance is kept through the ReLUs (He et al. 2015), every residual branch starts at zero (Zhang
    et al. 2019, "Fixup"), and three channels carry the mean colours through from the beginning.
    """
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if name.endswith(".conv.4"):
                nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    outer = {part: [m for m in getattr(vae, part) if isinstance(m, nn.Conv2d)]
             for part in ("encoder", "decoder")}  # fmt: skip
    first, *halvings, last = outer["encoder"]
    _carry(first, 1.0, 0.0)
    for conv in halvings:
        conv.weight[:3] = 0
        for colour in range(3):
            conv.weight[colour, colour, 1:, 1:] = 0.25
    _carry(last, LATENT_GAIN, -LATENT_GAIN / 2)
    first, *doublings, last = outer["decoder"]
    _carry(first, 1 / LATENT_GAIN, 0.5)
    for conv in (*doublings, last):
        _carry(conv, 1.0, 0.0)


def _carry(conv: nn.Conv2d, gain: float, shift: float) -> None:
    """Hand the first three channels on."""
    conv.weight[:3] = 0
    for colour in range(3):
        conv.weight[colour, colour, 1, 1] = gain
    if conv.bias is not None:
        conv.bias[:3] = shift


def _conv(inputs: int, outputs: int, **settings) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **settings)


def _blocks(width: int, count: int) -> list[nn.Module]:
    from diffusers.models.autoencoders.vae import AutoencoderTinyBlock

    return [AutoencoderTinyBlock(width, width, "relu") for _ in range(count)]


def _encoder() -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for width, blocks in ENCODER:
        first = not layers
        layers.append(_conv(before, width, stride=1 if first else 2, bias=first))
        layers += _blocks(width, blocks)
        before = width
    return nn.Sequential(*layers, _conv(before, LATENTS))


def _decoder() -> nn.Sequential:
    before = DECODER[0][0]
    layers: list[nn.Module] = [_conv(LATENTS, before), nn.ReLU()]
    for number, (width, blocks) in enumerate(DECODER):
        layers += _blocks(width, blocks)
        last = number == len(DECODER) - 1
        if last:
            layers.append(_conv(width, 3))
        else:
            after = DECODER[number + 1][0]
            layers += [nn.Upsample(scale_factor=2), _conv(width, after, bias=False)]
    return nn.Sequential(*layers)
