"""Stage 1: the autoencoder, in TAESD layout.

Trained on crops, since it is fully convolutional and full pictures would cost four times as much.
The loss is L1 at three scales and on gradients (edges of flat art are what the eye checks). Latents
are held at mean 0 and deviation 1 per channel, which is what the diffusion model wants to see, and
are disturbed a little before decoding, so that the decoder forgives what a sampler leaves over.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..world import Draws, Rendered, draw_sample, garment, portrait
from ..world.specs import draw_attire, draw_character
from .config import SIZE_PX
from .loop import Plan, arguments, run_stage
from .narrow import NarrowVae, start

PLAN = Plan(steps=5_000, learning_rate=8e-4, warmup=50, average=0.998, final=0.4, muon=True)
CROP_PX = 64
CROPS = 4  # of each picture, since drawing one takes longer than learning from a crop
PERSON_WEIGHT, HEAD_WEIGHT = 3.0, 6.0  # limbs and faces are small, and what people look at
DISTURB = 0.08  # deviation of the noise on latents of deviation 1


class VaeStage:
    name = "vae"

    def __init__(self, args, device: torch.device):
        self.size = args.batch or 32
        self.seed = args.seed
        vae = NarrowVae()
        start(vae)
        self.trained = nn.ModuleDict({"vae": vae})

    def batch(self, step: int):
        count = self.size // CROPS
        first = (self.seed << 40) + step * count
        crops = [crop for i in range(count) for crop in self._crops(first + i)]
        return {
            "pixels": torch.stack([pixels for pixels, _ in crops]),
            "weight": torch.stack([weight for _, weight in crops]),
        }

    def _crops(self, index: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Pixels (3, CROP_PX, CROP_PX), -1..1, and their weights (1, CROP_PX, CROP_PX)."""
        draws = Draws(5, index)
        kind = draws.unit()
        if kind < 0.06:
            rendered = portrait(draw_character(draws), SIZE_PX, draws)
        elif kind < 0.12:
            rendered = garment(draw_attire(draws), SIZE_PX, draws)
        else:
            rendered = draw_sample(index, SIZE_PX).rendered
        return [_crop(rendered, draws) for _ in range(CROPS)]

    def loss(self, batch, generator):
        pixels = batch["pixels"].contiguous(memory_format=torch.channels_last)
        vae = self.trained["vae"]
        latents = vae.encode(pixels).float()
        decoded = vae.decode(disturbed(latents, generator)).float()
        picture = picture_loss(decoded, pixels, batch["weight"])
        shape = _latent_loss(latents)
        return picture + 0.05 * shape, {
            "picture": picture.detach(), "latents": shape.detach(), "psnr": psnr(decoded, pixels),
        }  # fmt: skip


def _crop(rendered: Rendered, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """One crop and its weight; three in four are centred on the person."""
    room = SIZE_PX - CROP_PX
    x, y = draws.below(room + 1), draws.below(room + 1)
    if draws.chance(0.75) and (rendered.keypoints[:, 2] > 0).any():
        seen = rendered.keypoints[rendered.keypoints[:, 2] > 0]
        point = seen[draws.below(len(seen))]
        x = min(max(int(point[0]) - CROP_PX // 2 + draws.below(17) - 8, 0), room)
        y = min(max(int(point[1]) - CROP_PX // 2 + draws.below(17) - 8, 0), room)
    crop = slice(y, y + CROP_PX), slice(x, x + CROP_PX)
    pixels = torch.from_numpy(rendered.picture[crop].copy()).permute(2, 0, 1)
    weight = torch.ones(1, CROP_PX, CROP_PX)
    for region, value in (("person", PERSON_WEIGHT), ("head", HEAD_WEIGHT)):
        weight[:, torch.from_numpy(rendered.mask(region)[crop] > 0)] = value
    return pixels.float() / 127.5 - 1, weight


def disturbed(latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Latents with up to DISTURB of noise."""
    device = latents.device
    strength = torch.rand(len(latents), 1, 1, 1, generator=generator, device=device)
    noise = torch.randn(latents.shape, generator=generator, device=device)
    return latents + DISTURB * strength * noise


def psnr(decoded: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Peak signal to noise ratio of pictures in -1..1, in dB."""
    return 10 * torch.log10(4 / (decoded.detach() - pixels).pow(2).mean())


def picture_loss(decoded: torch.Tensor, pixels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted L1 at three scales and on gradients; `weight` is (B, 1, H, W)."""
    error = (decoded - pixels).abs()
    total = (weight * error).mean()
    a, b, w = decoded, pixels, weight
    for _ in range(2):
        a, b, w = (F.avg_pool2d(values, 2) for values in (a, b, w))
        total = total + 0.5 * (w * (a - b).abs()).mean()
    for axis in (2, 3):
        steep = (decoded.diff(dim=axis) - pixels.diff(dim=axis)).abs()
        total = total + 0.5 * (weight.narrow(axis, 1, weight.shape[axis] - 1) * steep).mean()
    return total


def _latent_loss(latents: torch.Tensor) -> torch.Tensor:
    """How far every channel is from mean 0 and deviation 1, and what leaves -3..3.

    The decoder bends latents beyond about 3 (tanh(x / 3) * 3), so nothing may live there.
    """
    mean = latents.mean(dim=(0, 2, 3))
    deviation = latents.std(dim=(0, 2, 3))
    outside = F.relu(latents.abs() - 2.6).pow(2).mean()
    return mean.pow(2).mean() + (deviation - 1).pow(2).mean() + outside


def main() -> None:
    run_stage(VaeStage, PLAN, arguments("Train the autoencoder.").parse_args())


if __name__ == "__main__":
    main()
