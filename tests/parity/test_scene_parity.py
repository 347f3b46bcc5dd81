"""Compose Scene against the same scene built from ComfyUI's own nodes, with nano's weights."""

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conditioning.pose import draw_poses, write_poses
from tests.unit.conditioning.people import dancing, frame
from tools.inprocess import load_pack
from tools.server import ROOT

SIZE = 128
FRAMES = 3


@pytest.fixture(scope="module")
def parts(comfy, pack, nano):
    """Nano's models, poses, core's nodes, and ours."""
    core = comfy.nodes
    load_pack(ROOT / "demo" / "companion")
    from comfy.controlnet import load_controlnet
    from comfy.sd import load_checkpoint_guess_config

    model, clip, vae, _ = load_checkpoint_guess_config(str(nano.checkpoint))
    rng = np.random.default_rng(0)
    frames = [frame(dancing(rng, 128, 128, 200)) for _ in range(FRAMES)]
    nodes = import_module(f"{pack.__name__}.nodes.scene")
    return SimpleNamespace(
        core=core,
        model=model,
        clip=clip,
        vae=vae,
        control_net=load_controlnet(str(nano.controlnet)),
        poses=write_poses(frames),
        frames=frames,
        compose=nodes.TroupeComposeScene,
        cast=nodes.cast,
    )


def composed(parts, **options):
    """(model, positive, negative, latent, regions, preview)"""
    inputs = {
        "model": parts.model,
        "clip": parts.clip,
        "vae": parts.vae,
        "pose": parts.poses,
        "prompt": "a dancer",
        "negative": "blurry",
        "width": SIZE,
        "height": SIZE,
    }
    with torch.inference_mode():
        return parts.compose.execute(**(inputs | options)).args


def sampled(parts, model, positive, negative, latent, seed=5):
    with torch.inference_mode():
        (out,) = parts.core.common_ksampler(
            model, seed, 2, 4.0, "euler", "normal", positive, negative, latent
        )
    return out["samples"]


def core_texts(parts):
    encode = parts.core.CLIPTextEncode().encode
    with torch.inference_mode():
        return encode(parts.clip, "a dancer")[0], encode(parts.clip, "blurry")[0]


def core_latent(parts):
    (latent,) = parts.core.EmptyLatentImage().generate(SIZE, SIZE, FRAMES)
    return latent


def test_prompts_alone_are_core_s_text_encode(parts):
    ours = sampled(parts, *composed(parts)[:4])
    positive, negative = core_texts(parts)
    theirs = sampled(parts, parts.model, positive, negative, core_latent(parts))
    assert torch.equal(ours, theirs)


def test_pose_is_core_s_apply_control_net(parts):
    options = {"control_net": parts.control_net, "pose_outside": 1.0}
    spans = {"pose_strength": 0.7, "pose_start": 0.1, "pose_end": 0.9}
    ours = sampled(parts, *composed(parts, **options, **spans)[:4])
    hint = torch.from_numpy(draw_poses(parts.frames, SIZE, SIZE).astype(np.float32) / 255)
    pair = parts.core.ControlNetApplyAdvanced().apply_controlnet(
        *core_texts(parts), parts.control_net, hint, 0.7, 0.1, 0.9, vae=parts.vae
    )
    theirs = sampled(parts, parts.model, *pair, core_latent(parts))
    assert torch.equal(ours, theirs)


def test_region_prompts_are_core_s_masked_conditionings(parts):
    made = composed(parts, outfit_prompt="a red coat", region_strength=0.8)
    ours = sampled(parts, *made[:4])
    mask = made[4].mask("outfit", SIZE // 8, SIZE // 8)
    with torch.inference_mode():
        (coat,) = parts.core.CLIPTextEncode().encode(parts.clip, "a red coat")
    (masked,) = parts.core.ConditioningSetMask().append(coat, mask, "default", 0.8)
    positive, negative = core_texts(parts)
    theirs = sampled(parts, parts.model, positive + masked, negative, core_latent(parts))
    assert torch.equal(ours, theirs)


def test_a_plate_is_core_s_encode_and_noise_mask(parts):
    torch.manual_seed(0)
    picture = torch.rand(1, SIZE, SIZE, 3)
    plate = parts.cast.make_reference("background", picture, mode="plate")
    made = composed(parts, background=plate)
    with torch.inference_mode():
        (latent,) = parts.core.VAEEncode().encode(parts.vae, picture)
    latent = {"samples": latent["samples"].repeat(FRAMES, 1, 1, 1)}
    (latent,) = parts.core.SetLatentNoiseMask().set_mask(
        latent, made[4].grown("person", 0.06, SIZE // 8, SIZE // 8)
    )
    theirs = sampled(parts, parts.model, *core_texts(parts), latent)
    ours = sampled(parts, *made[:4])
    assert torch.equal(ours, theirs)
    untouched = latent["noise_mask"].expand(-1, 4, -1, -1) == 0.0
    assert untouched.any()
    torch.testing.assert_close(ours[untouched], latent["samples"][untouched], atol=1e-5, rtol=0)


def test_frames_have_the_noise_of_their_number(parts):
    whole = composed(parts, control_net=parts.control_net)
    part = composed(parts, control_net=parts.control_net, first_frame=1, frame_count=1)
    assert part[3]["batch_index"] == [1]
    torch.testing.assert_close(
        sampled(parts, *part[:4])[0], sampled(parts, *whole[:4])[1], atol=2e-3, rtol=1e-3
    )


def test_shared_noise_is_that_of_one_frame(parts):
    alone = composed(parts, control_net=parts.control_net, frame_count=1)
    shared = composed(parts, control_net=parts.control_net, first_frame=0, shared_noise=True)
    assert set(shared[3]["batch_index"]) == {0} and len(shared[3]["batch_index"]) > 1
    torch.testing.assert_close(
        sampled(parts, *shared[:4])[0], sampled(parts, *alone[:4])[0], atol=2e-3, rtol=1e-3
    )


def test_what_was_given_is_not_changed(parts):
    before = sampled(parts, parts.model, *core_texts(parts), core_latent(parts))
    made = composed(parts, control_net=parts.control_net)
    sampled(parts, *made[:4])
    assert made[0] is not parts.model
    assert parts.control_net.cond_hint_original is None
    assert torch.equal(before, sampled(parts, parts.model, *core_texts(parts), core_latent(parts)))


@pytest.mark.parametrize("socket", ["model", "clip", "vae"])
def test_a_socket_that_got_nothing_is_named(parts, socket):
    with pytest.raises(ValueError, match=f"{socket} socket got nothing"):
        composed(parts, **{socket: None})


def test_references_without_an_adapter_are_named(parts):
    attire = parts.cast.make_reference("attire", torch.rand(1, 8, 8, 3))
    with pytest.raises(ValueError, match="ipadapter and clip_vision, which the attire"):
        composed(parts, attire=attire)
    silent = parts.cast.make_reference("attire", torch.rand(1, 8, 8, 3), weight=0.0)
    assert len(composed(parts, attire=silent)) == 6


def test_what_is_no_reference_is_named(parts):
    with pytest.raises(ValueError, match="character: got a value of type str"):
        composed(parts, character="a face")


def test_what_is_no_pose_is_named(parts):
    with pytest.raises(ValueError, match="pose"):
        composed(parts, pose=[{"people": "many"}])
