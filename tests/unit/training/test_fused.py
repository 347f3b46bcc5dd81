"""Fewer kernels, the same numbers: against PEFT's and diffusers' own forward and backward."""

import copy

import torch
from peft.tuners.lora.layer import Linear as PeftLinear

from training import merge
from training.fused import FusedForward, PlainAttention, fuse


def run(unet) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(shape, generator=random)

    out = unet(
        draw(2, 4, 8, 8),
        torch.tensor([10, 700]),
        encoder_hidden_states=draw(2, 77, 64),
        added_cond_kwargs={"text_embeds": draw(2, 32), "time_ids": draw(2, 6)},
        return_dict=False,
    )[0]
    unet.zero_grad()
    out.square().sum().backward()
    return out.detach(), {n: p.grad for n, p in unet.named_parameters() if p.grad is not None}


def test_the_whole_model_gives_what_peft_and_diffusers_give(make_loop):
    from diffusers.models.attention_processor import AttnProcessor2_0
    from diffusers.models.resnet import ResnetBlock2D

    _, adapter, _, _ = make_loop({"adapter": {"alpha": 3.0}})
    with torch.no_grad():  # something to compare: PEFT's first `up` is zero
        for i, (_, pair) in enumerate(adapter.pairs()):
            pair.up.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(i))
    fused = [m for m in adapter.unet.modules() if isinstance(m, FusedForward)]
    assert len(fused) == len(adapter.names)
    plain = copy.deepcopy(adapter.unet)
    for module in plain.modules():
        if isinstance(module, FusedForward):
            module.__class__ = PeftLinear
        if type(module).__name__ == "PlainResnet":
            module.__class__ = ResnetBlock2D
        if isinstance(getattr(module, "processor", None), PlainAttention):
            module.set_processor(AttnProcessor2_0())
    out, gradients = run(adapter.unet)
    expected, others = run(plain)
    assert torch.allclose(out, expected, atol=1e-6, rtol=1e-5)
    assert gradients.keys() == others.keys() and len(others) == 2 * len(adapter.names)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, others[name], atol=1e-5, rtol=1e-4), name
    adapter.enable(False)
    bare = _forward_only(adapter.unet)
    for module in plain.modules():
        if isinstance(module, PeftLinear):
            module.enable_adapters(False)
    assert torch.equal(bare, _forward_only(plain))


def _forward_only(unet) -> torch.Tensor:
    with torch.no_grad():
        zeros = torch.zeros(1, 77, 64)
        conditions = {"text_embeds": torch.zeros(1, 32), "time_ids": torch.zeros(1, 6)}
        latents, time = torch.ones(1, 4, 8, 8), torch.tensor([3])
        return unet(latents, time, zeros, added_cond_kwargs=conditions, return_dict=False)[0]


def test_layers_with_dropout_or_dora_stay_as_peft_made_them(make_loop):
    for changes in (
        {"adapter": {"dropout": 0.1}},
        {"adapter": {"rank_dropout": 0.1}},
        {"adapter": {"kind": "dora"}},
    ):
        _, adapter, _, _ = make_loop(merge({"name": "other"}, changes))
        layers = [adapter.layer(plan) for plan in adapter.plans]
        assert not any(isinstance(layer, FusedForward) for layer in layers)
        assert not any(fuse(layer) for layer in layers)
