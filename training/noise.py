"""The noise pictures are hidden in: white, shifted as a whole, or with coarser layers."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from .job import ObjectiveSettings


@dataclass(frozen=True)
class Draw:
    """Everything random about one forward pass.

    Attributes:
        noise: (B, 4, h, w) float32, what targets are made of.
        timesteps: (B,) int64.
        added: the noise that is really added to the latents, if it is another one.
    """

    noise: torch.Tensor
    timesteps: torch.Tensor
    added: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> "Draw":
        """The same on another device."""
        added = None if self.added is None else self.added.to(device)
        return Draw(self.noise.to(device), self.timesteps.to(device), added)


def shape_noise(
    noise: torch.Tensor, settings: "ObjectiveSettings", random: torch.Generator
) -> torch.Tensor:
    """White noise (B, 4, h, w) with what the settings add to it."""
    if settings.multires_levels:
        noise = torch.stack([_pyramid(picture, settings, random) for picture in noise])
    if settings.noise_offset:
        shift = torch.randn((*noise.shape[:2], 1, 1), generator=random)
        noise = noise + _strength(settings.noise_offset, settings, len(noise), random) * shift
    return noise


def perturbed(
    noise: torch.Tensor, settings: "ObjectiveSettings", random: torch.Generator
) -> torch.Tensor | None:
    """The noise to add while `noise` stays the target: noise + gamma x other noise, or None.

    Input perturbation teaches the model to correct its own errors (arXiv 2301.11706, algorithm 1).
    """
    if not settings.input_perturbation:
        return None
    other = torch.randn(noise.shape, generator=random)
    return noise + _strength(settings.input_perturbation, settings, len(noise), random) * other


def _strength(
    most: float, settings: "ObjectiveSettings", count: int, random: torch.Generator
) -> float | torch.Tensor:
    """One strength for all pictures, or one drawn for each (B, 1, 1, 1)."""
    if not settings.noise_random_strength:
        return most
    return most * torch.rand((count, 1, 1, 1), generator=random)


def _pyramid(
    noise: torch.Tensor, settings: "ObjectiveSettings", random: torch.Generator
) -> torch.Tensor:
    """One picture's noise (4, h, w) and coarser copies of it, scaled back to variance one.

    Multi-resolution noise of J. Whitaker (wandb.ai, "Multi-Resolution Noise for Diffusion Model
    Training", 2023) as sd-scripts draws it: level i has the weight discount^i and is smaller by
    r^i, with an r from 2 to 4. Level 0 is white noise again: it only makes the first stronger.
    """
    size = noise.shape[-2:]
    total = noise * math.sqrt(2.0)
    for level in range(1, settings.multires_levels):
        ratio = 2.0 + 2.0 * float(torch.rand((), generator=random))
        coarse = [max(1, int(side / ratio**level)) for side in size]
        layer = torch.randn((1, noise.shape[0], *coarse), generator=random)
        layer = functional.interpolate(layer, size, mode="bilinear", align_corners=False)[0]
        total = total + settings.multires_discount**level * layer
        if 1 in coarse:
            break
    return total / total.std()
