"""ControlNet strength maps on ComfyUI's own ControlNet, model and sampler, with nano's weights."""

from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from tools.inprocess import load_pack
from tools.server import ROOT

SIDE = 16  # latent
FRAMES = 3


@pytest.fixture(scope="module")
def parts(comfy, pack, nano):
    """Nano's model, ControlNet, conditionings and control pictures, and our module under test."""
    core_nodes = comfy.nodes
    load_pack(ROOT / "demo" / "companion")
    from comfy.controlnet import load_controlnet
    from comfy.sd import load_checkpoint_guess_config

    model, clip, _, _ = load_checkpoint_guess_config(str(nano.checkpoint))
    torch.manual_seed(0)
    return SimpleNamespace(
        model=model,
        control_net=load_controlnet(str(nano.controlnet)),
        hint=torch.rand(FRAMES, SIDE * 8, SIDE * 8, 3),
        positive=clip.encode_from_tokens_scheduled(clip.tokenize("a dancer")),
        negative=clip.encode_from_tokens_scheduled(clip.tokenize("")),
        ours=import_module(f"{pack.__name__}.nodes.runtime.control_masks"),
        nodes=core_nodes,
    )


def sampled(parts, positive, negative, frames=FRAMES, seed=3):
    latent = {"samples": torch.zeros(frames, 4, SIDE, SIDE)}
    with torch.inference_mode():
        (out,) = parts.nodes.common_ksampler(
            parts.model, seed, 2, 4.0, "euler", "normal", positive, negative, latent
        )
    return out["samples"]


def controlled(parts, control_net, hint=None, **options):
    return parts.ours.apply_control(
        [parts.positive, parts.negative],
        control_net,
        parts.hint if hint is None else hint,
        **options,
    )


def residuals(parts, control_net, frames=FRAMES, chunks=2, sigma=5.0):
    """What a control object (with its hint set) gives for one step of `chunks` conditionings."""
    model = parts.model.model
    control_net.pre_run(model, model.model_sampling.percent_to_sigma)
    torch.manual_seed(1)
    noise = torch.randn(frames * chunks, 4, SIDE, SIDE)
    entry = parts.positive[0]
    context = entry[0].repeat(frames * chunks, 1, 1)
    adm = model.encode_adm(pooled_output=entry[1]["pooled_output"], width=128, height=128)
    cond = {"c_crossattn": context, "y": adm.repeat(frames * chunks, 1)}
    with torch.inference_mode():
        out = control_net.get_control(
            noise, torch.full((frames * chunks,), sigma), cond, chunks, {}
        )
    control_net.cleanup()
    return out


def with_hint(parts, control_net, hint=None, **options):
    return control_net.copy().set_cond_hint(
        (parts.hint if hint is None else hint).movedim(-1, 1), 0.8, **options
    )


def flat(found):
    return [r for items in found.values() for r in items if r is not None]


def test_the_control_net_has_an_effect(parts):
    plain = sampled(parts, *controlled(parts, parts.control_net))
    none = sampled(parts, parts.positive, parts.negative)
    assert float((plain - none).abs().max()) > 1e-3


def test_ones_are_exactly_the_plain_control_net(parts):
    masked = parts.ours.placed_control(parts.control_net, torch.ones(1, 40, 24))
    plain = residuals(parts, with_hint(parts, parts.control_net))
    ours = residuals(parts, with_hint(parts, masked))
    assert [len(items) for items in plain.values()] == [len(items) for items in ours.values()]
    for a, b in zip(flat(plain), flat(ours), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(
        sampled(parts, *controlled(parts, masked)),
        sampled(parts, *controlled(parts, parts.control_net)),
    )


def test_apply_control_is_core_s_apply_advanced(parts):
    core = parts.nodes.ControlNetApplyAdvanced().apply_controlnet(
        parts.positive, parts.negative, parts.control_net, parts.hint, 0.7, 0.1, 0.9
    )
    ours = controlled(parts, parts.control_net, strength=0.7, start_percent=0.1, end_percent=0.9)
    assert torch.equal(sampled(parts, *core), sampled(parts, *ours))


def test_zeros_are_exactly_no_control_net(parts):
    masked = parts.ours.placed_control(parts.control_net, torch.zeros(FRAMES, SIDE, SIDE))
    assert all(
        float(r.abs().max()) == 0.0 for r in flat(residuals(parts, with_hint(parts, masked)))
    )
    assert torch.equal(
        sampled(parts, *controlled(parts, masked)),
        sampled(parts, parts.positive, parts.negative),
    )


def test_half_a_picture_at_every_resolution(parts):
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1.0
    plain = residuals(parts, with_hint(parts, parts.control_net))
    ours = residuals(parts, with_hint(parts, parts.ours.placed_control(parts.control_net, mask)))
    sizes = set()
    for a, b in zip(flat(plain), flat(ours), strict=True):
        half = a.shape[-1] // 2
        sizes.add(a.shape[-1])
        assert torch.equal(a[..., :half], b[..., :half])
        assert float(b[..., half:].abs().max()) == 0.0
    assert len(sizes) > 1


def test_soft_masks_scale_residuals_by_their_area_mean(parts):
    torch.manual_seed(2)
    mask = torch.rand(FRAMES, SIDE * 4, SIDE * 4)
    plain = residuals(parts, with_hint(parts, parts.control_net))
    ours = residuals(parts, with_hint(parts, parts.ours.placed_control(parts.control_net, mask)))
    for a, b in zip(flat(plain), flat(ours), strict=True):
        mean = torch.nn.functional.avg_pool2d(mask[:, None], mask.shape[-1] // a.shape[-1])
        torch.testing.assert_close(b, a * mean.repeat(2, 1, 1, 1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_every_frame_has_its_own_mask_in_every_chunk(parts, chunks):
    mask = torch.zeros(FRAMES, 8, 8)
    mask[1] = 1.0
    plain = residuals(parts, with_hint(parts, parts.control_net), chunks=chunks)
    ours = residuals(
        parts, with_hint(parts, parts.ours.placed_control(parts.control_net, mask)), chunks=chunks
    )
    for a, b in zip(flat(plain), flat(ours), strict=True):
        a, b = a.unflatten(0, (chunks, FRAMES)), b.unflatten(0, (chunks, FRAMES))
        assert torch.equal(a[:, 1], b[:, 1])
        assert float(b[:, [0, 2]].abs().max()) == 0.0


def test_frames_alone_and_in_a_batch(parts):
    torch.manual_seed(4)
    mask = torch.rand(FRAMES, SIDE, SIDE)
    together = flat(
        residuals(parts, with_hint(parts, parts.ours.placed_control(parts.control_net, mask)))
    )
    sub = parts.ours.placed_control(parts.control_net, mask[:2])
    fewer = flat(residuals(parts, with_hint(parts, sub, parts.hint[:2]), frames=FRAMES))
    # Two masks for three frames start over, as core's control pictures do.
    for a, b in zip(together, fewer, strict=True):
        assert torch.equal(a[[0, 1]], b[[0, 1]])
        assert a.shape == b.shape


def test_a_chain_masks_only_its_own_control_net(parts):
    zeros = torch.zeros(1, 4, 4)
    first = with_hint(parts, parts.control_net)
    plain = flat(residuals(parts, first))
    chain = with_hint(parts, parts.ours.placed_control(parts.control_net, zeros))
    chain.set_previous_controlnet(with_hint(parts, parts.control_net))
    for a, b in zip(plain, flat(residuals(parts, chain)), strict=True):
        assert torch.equal(a, b)
    masked = with_hint(parts, parts.ours.placed_control(parts.control_net, zeros))
    second = with_hint(parts, parts.control_net).set_previous_controlnet(masked)
    for a, b in zip(plain, flat(residuals(parts, second)), strict=True):
        assert torch.equal(a, b)


def test_residuals_of_one_picture_for_all_frames(parts):
    """A T2I-Adapter with a single hint answers with a batch of one."""
    from comfy.controlnet import T2IAdapter
    from comfy.t2i_adapter.adapter import Adapter

    torch.manual_seed(5)
    adapter = Adapter(channels=[8, 16, 16, 16], nums_rb=1, cin=192, ksize=1, sk=True, xl=False)
    core = T2IAdapter(adapter, adapter.input_channels, 8, "nearest-exact", torch.device("cpu"))
    mask = torch.zeros(FRAMES, 4, 4)
    mask[2] = 1.0
    plain = flat(residuals(parts, with_hint(parts, core, parts.hint[:1])))
    masked = parts.ours.placed_control(core, mask)
    ours = flat(residuals(parts, with_hint(parts, masked, parts.hint[:1])))
    for a, b in zip(plain, ours, strict=True):
        assert a.shape[0] == 1 and b.shape[0] == 2 * FRAMES
        assert torch.equal(b[[2, 5]], a.expand(2, -1, -1, -1))
        assert float(b[[0, 1, 3, 4]].abs().max()) == 0.0


def test_masks_multiply_when_wrapped_twice(parts):
    half = torch.full((1, 4, 4), 0.5)
    once = parts.ours.placed_control(parts.control_net, half)
    twice = parts.ours.placed_control(once, half)
    plain = flat(residuals(parts, with_hint(parts, parts.control_net)))
    for a, b in zip(plain, flat(residuals(parts, with_hint(parts, twice))), strict=True):
        torch.testing.assert_close(a * 0.25, b)


def test_start_and_end_are_respected(parts):
    masked = parts.ours.placed_control(parts.control_net, torch.ones(1, 4, 4))
    late = with_hint(parts, masked, timestep_percent_range=(0.5, 1.0))
    sigmas = parts.model.model.model_sampling
    assert residuals(parts, late, sigma=float(sigmas.percent_to_sigma(0.1))) is None
    assert residuals(parts, late, sigma=float(sigmas.percent_to_sigma(0.8))) is not None
    late.set_previous_controlnet(with_hint(parts, parts.control_net))
    alone = residuals(parts, with_hint(parts, parts.control_net), sigma=14.0)
    for a, b in zip(flat(alone), flat(residuals(parts, late, sigma=14.0)), strict=True):
        assert torch.equal(a, b)


def test_copies_share_no_state(parts):
    masked = parts.ours.placed_control(parts.control_net, torch.ones(1, 4, 4))
    assert masked.control is not parts.control_net
    twin = masked.copy()
    twin.set_cond_hint(parts.hint.movedim(-1, 1), 0.3)
    twin.set_extra_arg("control_type", [0])
    twin.set_previous_controlnet(with_hint(parts, parts.control_net))
    for original in (masked.control, parts.control_net):
        assert original.cond_hint_original is None
        assert original.strength == 1.0
        assert original.extra_args == {}
    assert masked.previous_controlnet is None
    assert twin.control.extra_args == {"control_type": [0]}
    residuals(parts, twin)
    assert twin.resized == {} and masked.resized == {}
    assert twin.control.cond_hint is None


def test_a_later_change_of_the_mask_tensor_is_not_seen(parts):
    mask = torch.ones(1, 4, 4)
    masked = parts.ours.placed_control(parts.control_net, mask)
    mask.zero_()
    assert float(residuals(parts, with_hint(parts, masked))["middle"][0].abs().max()) > 0.0


def test_memory_management_sees_the_wrapped_model(parts):
    masked = parts.ours.placed_control(parts.control_net, torch.ones(1, 4, 4))
    assert masked.get_models() == parts.control_net.get_models()
    masked.set_previous_controlnet(parts.control_net.copy())
    assert len(masked.get_models()) == 2
    assert masked.inference_memory_requirements(torch.float32) == 0


def test_positive_and_negative_share_one_control(parts):
    positive, negative = controlled(parts, parts.control_net)
    assert positive[0][1]["control"] is negative[0][1]["control"]
    assert "control" not in parts.positive[0][1]
    again = parts.ours.apply_control([positive, parts.negative], parts.control_net, parts.hint)
    assert again[0][0][1]["control"] is not again[1][0][1]["control"]
    assert again[0][0][1]["control"].previous_controlnet is positive[0][1]["control"]


def test_no_strength_is_no_control(parts):
    positive, negative = controlled(parts, parts.control_net, strength=0.0)
    assert positive is parts.positive and negative is parts.negative


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(4, 4), "N, h, w"),
        (torch.ones(0, 4, 4), "N, h, w"),
        (torch.full((1, 4, 4), 2.0), "0 to 1"),
        (torch.full((1, 4, 4), float("nan")), "0 to 1"),
    ],
)
def test_bad_masks_are_named(parts, mask, words):
    with pytest.raises(ValueError, match=words):
        parts.ours.placed_control(parts.control_net, mask)
