"""IP-Adapter in ComfyUI against diffusers: same weights, same pictures, same noise prediction."""

import pytest
import torch

from tests.parity import tiny

LIMIT = 1e-6


def oracle_tokens(t, kind: str, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoder output with and without the pictures, as diffusers' SDXL pipeline makes them."""
    vision = t.vision_oracle
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    pixels = (images.movedim(-1, 1) - mean) / std
    if kind == "base":
        seen = vision(pixels).image_embeds
        return seen, torch.zeros_like(seen)
    seen = vision(pixels, output_hidden_states=True).hidden_states[-2]
    absent = vision(torch.zeros_like(pixels), output_hidden_states=True).hidden_states[-2]
    return seen, absent


def oracle_output(t, kind, references, call, frames=1):
    """What diffusers predicts for one recorded call of ComfyUI's UNet.

    references: list of (images, weight, mask or None); chunk index 1 is the negative prompt.
    """
    unet = t.fresh_oracle()
    adapters = [t.adapters[kind]] * len(references)
    unet._load_ip_adapter_weights(adapters, low_cpu_mem_usage=False)
    image_embeds, masks = [], []
    for images, _, mask in references:
        seen, absent = oracle_tokens(t, kind, images)
        chunks = [seen if index == 0 else absent for index in call.cond_or_uncond]
        rows = [chunk.unsqueeze(0).expand(frames, *chunk.shape) for chunk in chunks]
        image_embeds.append(torch.cat(rows))
        masks.append(mask)
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [weight for _, weight, _ in references]
    masked = masks if any(mask is not None for mask in masks) else None
    return unet(
        call.x,
        call.timesteps,
        encoder_hidden_states=call.context,
        added_cond_kwargs={"vector": call.vector, "image_embeds": image_embeds},
        cross_attention_kwargs={"ip_adapter_masks": masked} if masked else None,
    ).sample


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, as a part of the largest value (about 1.5 in these predictions)."""
    return ((a - b).abs().max() / a.abs().max()).item()


def half_mask(size: tuple[int, int], left: bool) -> torch.Tensor:
    """A mask whose edge lies on a cell edge of every attention level, in picture pixels."""
    mask = torch.zeros(1, size[0] * 8, size[1] * 8)
    middle = size[1] * 4
    if left:
        mask[:, :, :middle] = 1
    else:
        mask[:, :, middle:] = 1
    return mask


def test_both_models_agree_without_references(tiny_sdxl):
    _, calls = tiny.sample(tiny_sdxl.model)
    call = calls[0]
    theirs = tiny_sdxl.oracle(
        call.x,
        call.timesteps,
        encoder_hidden_states=call.context,
        added_cond_kwargs={"vector": call.vector},
    ).sample
    assert difference(theirs, call.output) <= LIMIT


@pytest.mark.parametrize("kind", ["base", "plus"])
@pytest.mark.parametrize("weight", [1.0, 0.6])
def test_one_reference(tiny_sdxl, kind, weight):
    t = tiny_sdxl
    images = tiny.pictures(1, seed=3)
    model = t.runtime.apply_reference(t.model, t.adapters[kind], t.vision, images, weight=weight)
    _, plain = tiny.sample(t.model)
    _, calls = tiny.sample(model)
    assert len(calls) == len(plain) == 2
    for call in calls:
        theirs = oracle_output(t, kind, [(images, weight, None)], call)
        assert difference(theirs, call.output) <= LIMIT
    # The reference must matter, or the comparison would prove nothing.
    assert difference(calls[0].output, plain[0].output) > 1e-3


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_several_pictures_are_joined_as_diffusers_does(tiny_sdxl, kind):
    t = tiny_sdxl
    images = tiny.pictures(3, seed=4)
    model = t.runtime.apply_reference(t.model, t.adapters[kind], t.vision, images)
    _, calls = tiny.sample(model)
    assert (
        difference(oracle_output(t, kind, [(images, 1.0, None)], calls[0]), calls[0].output)
        <= LIMIT
    )


@pytest.mark.parametrize("kind", ["base", "plus"])
@pytest.mark.parametrize("size", [(16, 16), (24, 16), (32, 48)])
def test_two_masked_references(tiny_sdxl, kind, size):
    t = tiny_sdxl
    left, right = half_mask(size, left=True), half_mask(size, left=False)
    first, second = tiny.pictures(1, seed=5), tiny.pictures(1, seed=6)
    apply = t.runtime.apply_reference
    model = apply(t.model, t.adapters[kind], t.vision, first, weight=0.8, mask=left)
    model = apply(model, t.adapters[kind], t.vision, second, weight=1.1, mask=right)
    _, calls = tiny.sample(model, size=size)
    references = [(first, 0.8, left.unsqueeze(0)), (second, 1.1, right.unsqueeze(0))]
    for call in calls:
        assert difference(oracle_output(t, kind, references, call), call.output) <= LIMIT


def test_a_batch_of_frames(tiny_sdxl):
    t = tiny_sdxl
    images = tiny.pictures(1, seed=8)
    model = t.runtime.apply_reference(t.model, t.adapters["plus"], t.vision, images)
    _, calls = tiny.sample(model, frames=3)
    theirs = oracle_output(t, "plus", [(images, 1.0, None)], calls[0], frames=3)
    assert difference(theirs, calls[0].output) <= LIMIT
