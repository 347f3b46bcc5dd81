"""The diffusion process SDXL was trained with: how noise grows, what the UNet's output means."""

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


def signal_to_noise(power: torch.Tensor) -> torch.Tensor:
    """SNR(t) = a / (1 - a) of the cumulative signal power a (arXiv 2107.00630, section 3)."""
    return power / (1.0 - power)


@dataclass(frozen=True)
class Prediction:
    """What the UNet's output stands for.

    Attributes:
        target: (latents, noise, signal, noise share) -> what the output should be.
        of_x0: SNR -> what the squared error of the prediction is, as a multiple of the squared
            error of the clean latents it implies (arXiv 2202.00512, section 4).
    """

    name: str
    help: str
    target: Callable[..., torch.Tensor]
    of_x0: Callable[[torch.Tensor], torch.Tensor]


PREDICTIONS = {
    p.name: p
    for p in (
        Prediction(
            "epsilon",
            "The noise itself (arXiv 2006.11239 eq. 14).",
            lambda latents, noise, signal, share: noise,
            lambda snr: snr,
        ),
        Prediction(
            "v_prediction",
            "v = signal x noise - share x latents (arXiv 2202.00512, section 4).",
            lambda latents, noise, signal, share: signal * noise - share * latents,
            lambda snr: snr + 1.0,
        ),
    )
}
