"""How much each noise level counts: factors of the loss per timestep, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .diffusion import PREDICTIONS, signal_to_noise

if TYPE_CHECKING:
    from .job import ObjectiveSettings

# Rescaled schedules end in an SNR of exactly zero, where 1 / sqrt(SNR) has no value.
LEAST_SNR, MOST_WEIGHT = 1e-8, 100.0


@dataclass(frozen=True)
class Weighting:
    """A weighting as the papers write it: of the squared error of the clean latents.

    Attributes:
        of_x0: (SNR, settings) -> weight; the weight of the prediction's own error follows from it
            by `Prediction.of_x0`. None: every timestep counts the same.
    """

    name: str
    help: str
    of_x0: Callable[[torch.Tensor, "ObjectiveSettings"], torch.Tensor] | None


WEIGHTINGS = {
    w.name: w
    for w in (
        Weighting("none", "Every noise level counts the same.", None),
        Weighting(
            "min_snr",
            "min(SNR, gamma): easy, nearly clean steps count less (arXiv 2303.09556, eq. 5).",
            lambda snr, settings: snr.clamp(max=settings.min_snr_gamma),
        ),
        Weighting(
            "soft_min_snr",
            "SNR x gamma / (SNR + gamma): min-SNR without its edge (arXiv 2401.11605).",
            lambda snr, settings: snr * settings.min_snr_gamma / (snr + settings.min_snr_gamma),
        ),
        Weighting(
            "debiased",
            "sqrt(SNR), which is 1 / sqrt(SNR) on noise: noisy steps count more "
            "(arXiv 2310.08442).",
            lambda snr, settings: snr.sqrt(),
        ),
        Weighting(
            "like_epsilon",
            "SNR: a v-prediction's error counts as the noise error it implies; noise predictions "
            "as none (arXiv 2202.00512, section 4).",
            lambda snr, settings: snr,
        ),
        Weighting(
            "p2",
            "SNR / (1 + SNR)^gamma: steps where content appears count more (arXiv 2204.00227, "
            "eq. 8, with k = 1).",
            lambda snr, settings: snr / (1.0 + snr) ** settings.p2_gamma,
        ),
    )
}


def weight_table(
    settings: "ObjectiveSettings", prediction: str, power: torch.Tensor
) -> torch.Tensor | None:
    """Factor of the loss at each timestep, float32 like `power` (1000,); None for all ones.

    Args:
        prediction: a key of PREDICTIONS; what the loss is measured on.
        power: see `alphas_cumprod`.
    """
    weighting = WEIGHTINGS[settings.weighting]
    if weighting.of_x0 is None:
        return None
    snr = signal_to_noise(power.double()).clamp(min=LEAST_SNR)
    weight = weighting.of_x0(snr, settings) / PREDICTIONS[prediction].of_x0(snr)
    return weight.clamp(max=MOST_WEIGHT).float()
