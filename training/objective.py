"""What is learned: the loss of a batch, as the objective's settings say.

`diffusion` is the noise schedule, `noise` and `timesteps` draw, `weighting` and `losses` judge.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from .diffusion import PREDICTIONS, alphas_cumprod
from .losses import LOSSES, threshold_table
from .noise import Draw, perturbed, shape_noise
from .timesteps import draw_timesteps
from .weighting import weight_table

if TYPE_CHECKING:
    from .job import ObjectiveSettings


@dataclass(frozen=True)
class Batch:
    """One forward pass worth of pictures, all of one size, on the training device.

    Attributes:
        latents: (B, 4, h, w) float32, scaled for the UNet.
        context: (B, T, C) penultimate states of both text encoders.
        pooled: (B, P) projected pooled state of the second one.
        time_ids: (B, 6) original h, w, crop top, left, target h, w in pixels.
        mask: (B, 1, h, w) how much each place counts, mean 1 over a picture; None: all the same.
        weights: (B,) how much each picture counts; None: all the same.
        held: (B,) bool, pictures that are held to `target`; None: no picture is.
        target: (B, 4, h, w) float32, what the model without adapter predicts.
        base_context, base_pooled: as `context` and `pooled`, from text encoders without adapter;
            None: the same.
    """

    latents: torch.Tensor
    context: torch.Tensor
    pooled: torch.Tensor
    time_ids: torch.Tensor
    mask: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    held: torch.Tensor | None = None
    target: torch.Tensor | None = None
    base_context: torch.Tensor | None = None
    base_pooled: torch.Tensor | None = None

    def average(self, values: torch.Tensor) -> torch.Tensor:
        """(B, 4, h, w) to one number per picture (B,): mean over places and channels, weighted."""
        if self.mask is not None:
            values = values * self.mask
        values = values.mean(dim=(1, 2, 3))
        return values if self.weights is None else values * self.weights

    def with_base_text(self) -> "Batch":
        """What the model without adapter is shown."""
        if self.base_context is None:
            return self
        return replace(self, context=self.base_context, pooled=self.base_pooled)


class Objective:
    """The loss of the UNet's prediction at random timesteps.

    Whatever depends on the timestep alone is a table of 1000 numbers on the device, so a step asks
    the device for nothing.

    Args:
        prediction: a key of PREDICTIONS.
        zero_terminal_snr: as in `alphas_cumprod`.
        device: where batches live.
    """

    def __init__(
        self,
        settings: "ObjectiveSettings",
        prediction: str = "epsilon",
        zero_terminal_snr: bool = False,
        device: torch.device | str = "cpu",
    ):
        self._settings = settings
        self._target = PREDICTIONS[prediction].target
        self._loss = LOSSES[settings.loss].of
        power = alphas_cumprod(zero_terminal_snr)
        self._signal = power.sqrt().to(device)
        self._share = (1.0 - power).sqrt().to(device)
        weights = weight_table(settings, prediction, power)
        self._weights = None if weights is None else weights.to(device)
        thresholds = threshold_table(settings, power)
        self._thresholds = None if thresholds is None else thresholds.to(device)

    def draw(self, latents: torch.Tensor, random: torch.Generator) -> Draw:
        """Noise and timesteps for latents; drawn on the CPU, so the same on every device."""
        noise = torch.randn(latents.shape, generator=random, dtype=torch.float32)
        times = draw_timesteps(self._settings, latents.shape[0], random)
        noise = shape_noise(noise, self._settings, random)
        return Draw(noise, times, perturbed(noise, self._settings, random)).to(latents.device)

    def noisy(self, latents, noise, timesteps) -> torch.Tensor:
        """Latents at `timesteps`: sqrt(a) x latents + sqrt(1 - a) x noise (DDPM eq. 4)."""
        return (
            self._at(self._signal, timesteps) * latents + self._at(self._share, timesteps) * noise
        )

    def losses(
        self, unet: torch.nn.Module, batch: Batch, draw: Draw, dtype: torch.dtype
    ) -> torch.Tensor:
        """Loss per picture, float32 (B,), mean over channels and pixels.

        Args:
            dtype: what the UNet computes in; noise, target and loss stay float32.
        """
        predicted, target = self.predict(unet, batch, draw, dtype)
        thresholds = self._at(self._thresholds, draw.timesteps)
        losses = batch.average(self._loss(predicted, target, thresholds))
        return losses if self._weights is None else losses * self._weights[draw.timesteps]

    def predict(
        self, unet: torch.nn.Module, batch: Batch, draw: Draw, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(prediction, target), both float32 (B, 4, h, w)."""
        conditions = {"text_embeds": batch.pooled.to(dtype), "time_ids": batch.time_ids}
        added = draw.noise if draw.added is None else draw.added
        predicted = unet(
            self.noisy(batch.latents, added, draw.timesteps).to(dtype),
            draw.timesteps,
            encoder_hidden_states=batch.context.to(dtype),
            added_cond_kwargs=conditions,
            return_dict=False,
        )[0]
        signal = self._at(self._signal, draw.timesteps)
        share = self._at(self._share, draw.timesteps)
        target = self._target(batch.latents, draw.noise, signal, share)
        if batch.target is not None:
            target = torch.where(batch.held.view(-1, 1, 1, 1), batch.target, target)
        return predicted.float(), target

    @staticmethod
    def _at(table: torch.Tensor | None, timesteps: torch.Tensor) -> torch.Tensor | None:
        return None if table is None else table[timesteps].view(-1, 1, 1, 1)
