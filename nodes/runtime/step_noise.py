"""The noise that samplers add on the way, by frame number, as the noise they start from is.

Ancestral and SDE samplers draw one noise for a whole batch in every step, so a frame would depend
on which others it is sampled with. Core's samplers take a `noise_sampler` instead of their own;
this one draws for each frame from a source of its own. Frame 0 gets what core gives to a single
picture with the same seed.
"""

import copy
import inspect
from collections.abc import Sequence

import torch
from comfy.k_diffusion.sampling import BrownianTreeNoiseSampler, default_noise_sampler
from comfy.patcher_extension import WrappersMP

KEY = "troupe_step_noise"

# Fractional part of the golden ratio in 64 bits (Knuth, TAOCP vol. 3, 6.4): spreads seeds, so that
# frame 1 of one seed is not frame 0 of the next.
SPREAD = 0x9E3779B97F4A7C15


def with_step_noise(model, numbers: Sequence[int]):
    """A clone of `model` whose samplers give frame i the step noise of `numbers[i]`.

    Runs of another number of latents, and samplers that take no noise from outside, are as core
    has them.
    """
    patched = model.clone()
    patched.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, StepNoise(numbers))
    return patched


class StepNoise:
    """Around a whole run: hands the sampler a noise sampler that knows the frames."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = tuple(numbers)

    def __call__(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        seed = kwargs.get("seed", args[3] if len(args) > 3 else None)
        if seed is not None and noise.shape[0] == len(self.numbers) and _takes_noise(sampler):
            device = torch.device(executor.class_obj.model_patcher.load_device)
            one = torch.zeros(1, *noise.shape[1:], device=device)
            drawn = FrameNoise(self.numbers, int(seed), one, _source(sampler, sigmas))
            sampler = copy.copy(sampler)
            sampler.extra_options = {**sampler.extra_options, "noise_sampler": drawn}
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)


class FrameNoise:
    """A noise sampler `(sigma, next sigma) -> (N, ...)` made of one for each number."""

    def __init__(self, numbers: Sequence[int], seed: int, one: torch.Tensor, source) -> None:
        self.numbers = numbers
        self.sources = {
            number: source(one, (seed + number * SPREAD) % 2**64) for number in set(numbers)
        }

    def __call__(self, sigma, sigma_next) -> torch.Tensor:
        drawn = {number: source(sigma, sigma_next) for number, source in self.sources.items()}
        return torch.cat([drawn[number] for number in self.numbers])


def _takes_noise(sampler) -> bool:
    function = getattr(sampler, "sampler_function", None)
    if function is None or "noise_sampler" in getattr(sampler, "extra_options", ()):
        return False
    return "noise_sampler" in inspect.signature(function).parameters


def _source(sampler, sigmas: torch.Tensor):
    """What the sampler would make itself: (one latent, seed) -> noise sampler.

    The DPM++ SDE family asks for overlapping spans of one path, so it needs a Brownian tree.
    """
    name = sampler.sampler_function.__name__
    if not (name.startswith("sample_dpmpp_") and "_sde" in name) or not bool((sigmas > 0).any()):
        return default_noise_sampler
    low, high, cpu = sigmas[sigmas > 0].min(), sigmas.max(), not name.endswith("_gpu")
    return lambda one, seed: BrownianTreeNoiseSampler(one, low, high, seed=seed, cpu=cpu)
