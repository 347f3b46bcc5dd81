"""What all diffusion stages share: noise, loss, size conditioning, frozen models."""

import torch

from miniature import modules

from ..world import Draws, Plan
from ..world.captions import draw_words
from .clip import encode_text
from .config import CONFIG
from .runs import load_weights
from .tokens import tokenize, use_small_table

SNR_GAMMA = 5.0
EMPTY_CAPTION = 0.1  # share of captions dropped, for classifier-free guidance
FAR = 30.0  # most that a step counts more, see `weight_of_far_steps`
HEAD_COUNTS = 5.0  # how much more than its surroundings a head counts in the loss
OUTFIT_COUNTS = 1.0


def scheduler():
    """SDXL's noise schedule (scaled linear betas, eps)."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        num_train_timesteps=1000, prediction_type="epsilon", clip_sample=False,
    )  # fmt: skip


def load_text(device: torch.device):
    """Both text encoders, frozen."""
    built = []
    for name, build in (("text_l", modules.build_text_l), ("text_g", modules.build_text_g)):
        text = build(CONFIG)
        use_small_table(text, CONFIG.text_width)
        text.load_state_dict(load_weights("clip", name))
        built.append(text.to(device).eval().requires_grad_(False))
    return tuple(built)


def load_frozen(stage: str, name: str, build, device: torch.device):
    """A finished module of another stage, frozen."""
    module = build(CONFIG)
    module.load_state_dict(load_weights(stage, name))
    return module.to(device).eval().requires_grad_(False)


def time_ids(size: tuple[int, int], draws: Draws | None = None) -> list[float]:
    """SDXL's six numbers: original (height, width), crop (top, left), target (height, width).

    Mostly the plain truth. In a third of the samples the first four are anything a data set may
    hold, so that the model learns to live with pictures that were scaled or cropped.
    """
    width, height = size
    original, crop = (height, width), (0, 0)
    if draws is not None and draws.chance(0.33):
        factor = draws.between(0.75, 8.0)
        original = (round(height * factor), round(width * factor))
        if draws.chance(0.5):
            crop = (draws.below(height // 2), draws.below(width // 2))
    return [float(value) for value in (*original, *crop, height, width)]


def captions(
    plans: list[Plan], draws: Draws, leave_out: list | None = None
) -> list[tuple[str, frozenset[str]]]:
    """A fresh wording for every sample, and what it mentions; one in ten is empty."""
    texts = []
    for i, plan in enumerate(plans):
        hidden = leave_out[i] if leave_out else ()
        said = draw_words(plan.scene, plan.pose.action, draws, hidden)
        texts.append(("", frozenset()) if draws.chance(EMPTY_CAPTION) else said)
    return texts


def text_batch(texts: list[str], size: tuple[int, int], draws: Draws) -> dict:
    """Token ids and time ids of a batch, on the CPU."""
    return {
        "ids": tokenize(texts),
        "time_ids": torch.tensor([time_ids(size, draws) for _ in texts]),
    }


def conditioning(texts, ids: torch.Tensor, sizes: torch.Tensor) -> dict:
    """Keyword arguments of a UNet or ControlNet call, from token ids and time ids."""
    with torch.no_grad():
        context, pooled = encode_text(*texts, ids)
    return {
        "encoder_hidden_states": context,
        "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes},
    }


def noised(noise_schedule, latents: torch.Tensor, generator: torch.Generator):
    """(noisy latents, noise, timesteps).

    Timesteps are uniform over the schedule and spread evenly over the batch, which makes the loss
    less noisy (Kingma et al. 2021, "Variational diffusion models", appendix I.1).
    """
    count, device = len(latents), latents.device
    noise = torch.randn(latents.shape, generator=generator, device=device)
    order = torch.randperm(count, generator=generator, device=device)
    inside = torch.rand(count, generator=generator, device=device)
    total = noise_schedule.config.num_train_timesteps
    steps = ((order + inside) / count * total).long().clamp(max=total - 1)
    return noise_schedule.add_noise(latents, noise, steps), noise, steps


def weighted_loss(noise_schedule, predicted, noise, steps, attention):
    """Min-SNR weighted error (Hang et al. 2023, equation 9, for eps), and the plain one.

    `attention` (B, h, w) says how much each place counts; see `attention_to`.
    """
    from diffusers.training_utils import compute_snr

    square = (predicted.float() - noise).pow(2).mean(dim=1)
    error = (square * attention).mean(dim=(1, 2))
    snr = compute_snr(noise_schedule, steps)
    weight = snr.clamp(max=SNR_GAMMA) / snr
    return (weight * error).mean(), {"error": square.mean().detach()}


def weight_of_far_steps(noise_schedule, steps) -> torch.Tensor:
    """(B,) weights for errors that no noise can cause.

    Like min-SNR's where the picture shows. Where it hardly does, errors of the noise are small and
    errors of the picture are not, so they count as errors of the picture, up to a bound.
    """
    from diffusers.training_utils import compute_snr

    snr = compute_snr(noise_schedule, steps)
    return torch.where(snr < 1, (1 / snr).clamp(max=FAR), snr.clamp(max=SNR_GAMMA) / snr)


def attention_to(head: torch.Tensor, outfit: torch.Tensor) -> torch.Tensor:
    """(B, h, w), 1 on average over a picture, from masks of the heads and the clothes.

    A head is a fourteenth of a picture, and glasses are a part of that. The best prediction of a
    place does not depend on how much it counts, so the weight only says where to learn first.
    """
    counts = 1 + HEAD_COUNTS * head + OUTFIT_COUNTS * outfit
    return counts / counts.mean(dim=(1, 2), keepdim=True)
