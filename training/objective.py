"""What is learned: the noise schedule SDXL was trained with, and the loss of a batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

TRAIN_STEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012


def alphas_cumprod(zero_terminal_snr: bool = False) -> torch.Tensor:
    """Cumulative signal power per timestep, float32 (1000,).

    "Scaled linear" betas of latent diffusion: the square roots are spaced evenly. With
    `zero_terminal_snr` they are rescaled so that the last step holds no signal (arXiv 2305.08891,
    algorithm 1).
    """
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_STEPS, dtype=torch.float32) ** 2
    cumulative = torch.cumprod(1.0 - betas, dim=0)
    if not zero_terminal_snr:
        return cumulative
    root = cumulative.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    return ((root - last) * (first / (first - last))) ** 2


@dataclass(frozen=True)
class Batch:
    """One forward pass worth of pictures, all of one size, on the training device.

    Attributes:
        latents: (B, 4, h, w) float32, scaled for the UNet.
        context: (B, T, C) penultimate states of both text encoders.
        pooled: (B, P) projected pooled state of the second one.
        time_ids: (B, 6) original h, w, crop top, left, target h, w in pixels.
    """

    latents: torch.Tensor
    context: torch.Tensor
    pooled: torch.Tensor
    time_ids: torch.Tensor


@dataclass(frozen=True)
class Prediction:
    """What the UNet's output stands for: target(latents, noise, signal, noise share)."""

    name: str
    help: str
    target: Callable[..., torch.Tensor]


PREDICTIONS = {
    p.name: p
    for p in (
        Prediction(
            "epsilon",
            "The noise itself (arXiv 2006.11239 eq. 14).",
            lambda latents, noise, signal, share: noise,
        ),
        Prediction(
            "v_prediction",
            "v = signal x noise - share x latents (arXiv 2202.00512, section 4).",
            lambda latents, noise, signal, share: signal * noise - share * latents,
        ),
    )
}


class Objective:
    """Mean squared error of the UNet's prediction at random timesteps.

    Args:
        prediction: a key of PREDICTIONS.
        timestep_range: (low, high), timesteps are drawn from low <= t < high.
        zero_terminal_snr: as in `alphas_cumprod`.
        device: where batches live.
    """

    def __init__(
        self,
        prediction: str = "epsilon",
        timestep_range: tuple[int, int] = (0, TRAIN_STEPS),
        zero_terminal_snr: bool = False,
        device: torch.device | str = "cpu",
    ):
        self._target = PREDICTIONS[prediction].target
        self._range = timestep_range
        power = alphas_cumprod(zero_terminal_snr)
        self._signal = power.sqrt().to(device)
        self._share = (1.0 - power).sqrt().to(device)

    def draw(
        self, latents: torch.Tensor, random: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(noise like latents, timesteps (B,)); drawn on the CPU, so the same on every device."""
        noise = torch.randn(latents.shape, generator=random, dtype=torch.float32)
        times = torch.randint(*self._range, (latents.shape[0],), generator=random)
        return noise.to(latents.device), times.to(latents.device)

    def noisy(self, latents, noise, timesteps) -> torch.Tensor:
        """Latents at `timesteps`: sqrt(a) x latents + sqrt(1 - a) x noise (DDPM eq. 4)."""
        return (
            self._at(self._signal, timesteps) * latents + self._at(self._share, timesteps) * noise
        )

    def losses(
        self,
        unet: torch.nn.Module,
        batch: Batch,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """Loss per picture, float32 (B,), mean over channels and pixels.

        Args:
            dtype: what the UNet computes in; noise, target and loss stay float32.
        """
        conditions = {"text_embeds": batch.pooled.to(dtype), "time_ids": batch.time_ids}
        predicted = unet(
            self.noisy(batch.latents, noise, timesteps).to(dtype),
            timesteps,
            encoder_hidden_states=batch.context.to(dtype),
            added_cond_kwargs=conditions,
            return_dict=False,
        )[0]
        signal, share = self._at(self._signal, timesteps), self._at(self._share, timesteps)
        target = self._target(batch.latents, noise, signal, share)
        return (predicted.float() - target).square().mean(dim=(1, 2, 3))

    @staticmethod
    def _at(table: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return table[timesteps].view(-1, 1, 1, 1)
