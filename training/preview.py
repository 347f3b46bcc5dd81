"""Sample pictures from fixed seeds, each beside its twin without the LoRA.

Training draws no number from a running generator (rng.py), so sampling cannot change it.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .adapter import Adapter
from .cache import Encoded
from .checkpoint import load_vae
from .diffusion import BETA_END, BETA_START, TRAIN_STEPS
from .plan import Plan
from .text import stack_contexts
from .variants import CaptionVariants
from .wholefile import whole_file

TILED_ABOVE = 512 * 512  # pixels from which a VAE decodes in tiles, to stay beside the UNet


@dataclass(frozen=True)
class Sample:
    """One sample picture on disk; `base` is its twin without the LoRA."""

    step: int
    prompt: str
    path: Path
    base: Path | None


def prompts(plan: Plan) -> list[str]:
    """The prompts of the sample pictures."""
    if plan.job.samples.prompts:
        return list(plan.job.samples.prompts)
    captions = CaptionVariants(plan.job.captions, plan.job.seed)
    items = [p.item for p in plan.placements]
    return [captions.plain(next((i for i in items if not i.prior), items[0]))]


def needed_texts(plan: Plan) -> list[str]:
    """Everything sampling needs an embedding of."""
    samples = plan.job.samples
    wanted = samples.at_end or samples.every_steps
    return [*prompts(plan), samples.negative] if wanted else []


def planned(plan: Plan, step: int) -> list[Sample]:
    """Where the samples of a step lie, whether or not they are made already."""
    settings = plan.job.samples
    look = [settings.negative, settings.steps, settings.guidance, settings.seed, _size(plan)]
    folder, out = plan.run_dir / "samples", []
    for i, prompt in enumerate(prompts(plan)):
        tag = hashlib.sha256(json.dumps([prompt, i, look]).encode()).hexdigest()[:8]
        base = folder / f"base-{i}-{tag}.png" if settings.without_lora else None
        out.append(Sample(step, prompt, folder / f"step-{step:08d}-{i}-{tag}.png", base))
    return out


def _size(plan: Plan) -> tuple[int, int]:
    settings, side = plan.job.samples, plan.resolution
    return settings.width or side, settings.height or side


def make_samples(
    plan: Plan, adapter: Adapter, data: Encoded, step: int, progress: Callable[[int, int], None]
) -> list[Sample]:
    """Make the missing sample pictures of a step.

    Args:
        progress: called with (done, total) sampling steps; may raise to stop.
    """
    samples = planned(plan, step)
    work: list[tuple[int, Path, bool]] = []
    for i, sample in enumerate(samples):
        for path, with_lora in ((sample.base, False), (sample.path, True)):
            if path and not path.exists():
                work.append((i, path, with_lora))
    if not work:
        return samples
    training = adapter.unet.training
    adapter.train(False)
    total = len(work) * plan.job.samples.steps
    try:
        latents = []
        for done, (i, _, with_lora) in enumerate(work):
            adapter.enable(with_lora)
            first = done * plan.job.samples.steps
            tick = lambda n, first=first: progress(first + n, total)  # noqa: E731
            latents.append(_sample(plan, adapter.unet, data, samples[i].prompt, i, tick))
    finally:
        adapter.enable(True)
        adapter.train(training)
    _decode(plan, latents, [path for _, path, _ in work])
    return samples


@torch.no_grad()
def _sample(plan: Plan, unet, data: Encoded, prompt: str, index: int, tick) -> torch.Tensor:
    from diffusers import EulerDiscreteScheduler

    settings, device, dtype = plan.job.samples, plan.device, plan.dtype
    scheduler = EulerDiscreteScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        prediction_type=plan.prediction,
        timestep_spacing="leading",
        steps_offset=1,
        rescale_betas_zero_snr=plan.zero_terminal_snr,
    )
    scheduler.set_timesteps(settings.steps, device=device)
    width, height = _size(plan)
    pairs = [data.text(settings.negative), data.text(prompt)]
    context = stack_contexts([p[0] for p in pairs]).to(device, dtype)
    pooled = torch.stack([p[1] for p in pairs]).to(device, dtype)
    time_ids = torch.tensor([[height, width, 0, 0, height, width]] * 2, dtype=torch.float32)
    conditions = {"text_embeds": pooled, "time_ids": time_ids.to(device)}
    random = torch.Generator("cpu").manual_seed((settings.seed + index) % 2**63)
    latents = torch.randn((1, 4, height // 8, width // 8), generator=random).to(device)
    latents = latents * scheduler.init_noise_sigma
    for done, timestep in enumerate(scheduler.timesteps):
        tick(done)
        doubled = scheduler.scale_model_input(torch.cat([latents] * 2), timestep).to(dtype)
        without, towards = (
            unet(
                doubled,
                timestep,
                encoder_hidden_states=context,
                added_cond_kwargs=conditions,
                return_dict=False,
            )[0]
            .float()
            .chunk(2)
        )
        guided = without + settings.guidance * (towards - without)
        latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
    return latents


@torch.no_grad()
def _decode(plan: Plan, latents: list[torch.Tensor], paths: list[Path]) -> None:
    from PIL import Image

    vae = load_vae(plan.checkpoint, torch.float32, plan.device)
    width, height = _size(plan)
    if vae.kind == "kl" and width * height > TILED_ABOVE:
        vae.module.enable_tiling()
    for latent, path in zip(latents, paths, strict=True):
        pixels = vae.decode(latent)[0].float().cpu().nan_to_num()
        pixels_hwc = ((pixels.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            Image.fromarray(pixels_hwc.to(torch.uint8).numpy()).save(part, "png")
