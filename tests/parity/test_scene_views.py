"""Parts of a scene: windows of its frames, areas, tiles, other sizes, runs of a few frames.

The miniature model never mixes frames, so a frame must come out the same however the frames are
divided. What other packs do is played by stand-ins that follow their protocols to the letter.
"""

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from conditioning.pose import write_poses
from tests.unit.conditioning.people import dancing, frame
from tools.inprocess import load_pack
from tools.server import ROOT

SIZE = 128
FRAMES = 5
SAME = {"atol": 2e-3, "rtol": 1e-3}  # another batch size rounds differently


@pytest.fixture(scope="module")
def parts(comfy, pack, nano):
    """Nano's models, poses of two people, and the nodes of ComfyUI and of the pack."""
    core = comfy.nodes
    load_pack(ROOT / "demo" / "companion")
    import comfy.clip_vision
    from comfy.controlnet import load_controlnet
    from comfy.sd import load_checkpoint_guess_config

    model, clip, vae, _ = load_checkpoint_guess_config(str(nano.checkpoint))
    rng = np.random.default_rng(0)
    nodes = import_module(f"{pack.__name__}.nodes.scene")
    adapters = import_module(f"{pack.__name__}.nodes.reference")
    with torch.inference_mode():
        adapter = adapters.read_adapter(str(nano.ip_adapter_plus))
    return SimpleNamespace(
        core=core,
        model=model,
        clip=clip,
        vae=vae,
        control_net=load_controlnet(str(nano.controlnet)),
        poses=write_poses([frame(dancing(rng, 128, 128, 200)) for _ in range(FRAMES)]),
        adapter=adapter,
        vision=comfy.clip_vision.load(str(nano.clip_vision)),
        compose=nodes.TroupeComposeScene,
        cast=nodes.cast,
        runtime=lambda name: import_module(f"{pack.__name__}.nodes.runtime.{name}"),
    )


@pytest.fixture
def scene(parts):
    """scene(**options): a scene with a ControlNet, a reference in its region, a region prompt."""

    def composed(**options):
        torch.manual_seed(0)
        inputs = {
            "model": parts.model,
            "clip": parts.clip,
            "vae": parts.vae,
            "pose": parts.poses,
            "prompt": "a dancer",
            "negative": "blurry",
            "outfit_prompt": "a red coat",
            "width": SIZE,
            "height": SIZE,
            "control_net": parts.control_net,
            "attire": parts.cast.make_reference("attire", torch.rand(1, 32, 32, 3)),
            "ipadapter": parts.adapter,
            "clip_vision": parts.vision,
        }
        with torch.inference_mode():
            return parts.compose.execute(**(inputs | options)).args[:4]

    return composed


def sampled(parts, model, positive, negative, latent, sampler="euler", steps=2):
    with torch.inference_mode():
        (out,) = parts.core.common_ksampler(
            model, 5, steps, 4.0, sampler, "karras", positive, negative, latent
        )
    return out["samples"]


def hints_seen(parts, run):
    """(hint, chunks of the batch) of every call of the ControlNet while `run` samples."""
    seen = []

    def record(_module, args, kwargs):
        seen.append(kwargs["hint"].clone())

    model = parts.control_net.control_model
    handle = model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        return run(), seen
    finally:
        handle.remove()


def core_windows(model, length=2, overlap=1):
    import comfy.context_windows as windows

    windowed = model.clone()
    windowed.model_options["context_handler"] = windows.IndexListContextHandler(
        context_schedule=windows.get_matching_context_schedule("standard_static"),
        fuse_method=windows.get_matching_fuse_method("pyramid"),
        context_length=length,
        context_overlap=overlap,
        dim=0,
    )
    return windowed


def animatediff_windows(model, length=2):
    """The protocol of AnimateDiff-Evolved's sliding context.

    It slices what it finds in the prompts, tells the window in `ad_params`, and takes no control
    object without the attribute `sub_idxs`.
    """
    from comfy.patcher_extension import WrappersMP

    def of_window(cond, indices, total):
        cut = dict(cond)
        control = cond.get("control")
        while control is not None:
            if not hasattr(control, "sub_idxs"):
                raise ValueError(f"Control type {type(control).__name__} may not support windows")
            if not hasattr(control, "ACN_VERSION"):
                control.sub_idxs, control.full_latent_length = indices, total
                control.context_length = len(indices)
            control = control.previous_controlnet
        for name, value in cond.items():
            if isinstance(value, torch.Tensor) and value.shape[0] == total:
                cut[name] = value[indices]
        return cut

    def windows(executor, model, conds, x_in, timestep, model_options):
        total = x_in.shape[0]
        told = model_options["transformer_options"].setdefault("ad_params", {})
        out, counts = [torch.zeros_like(x_in) for _ in conds], torch.zeros(total, 1, 1, 1)
        for start in [*range(0, total - length, length), total - length]:
            indices = list(range(start, start + length))
            told.update(full_length=total, context_length=length, sub_idxs=indices)
            cut = [group and [of_window(c, indices, total) for c in group] for group in conds]
            answers = executor(model, cut, x_in[indices], timestep[indices], model_options)
            for whole, answer in zip(out, answers, strict=True):
                whole[indices] += answer
            counts[indices] += 1
        return [whole / counts for whole in out]

    windowed = model.clone()
    windowed.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "ADE", windows)
    return windowed


@pytest.mark.parametrize("windows", [core_windows, animatediff_windows])
@pytest.mark.parametrize("outside", [0.3, 1.0])
def test_frames_keep_their_pose_and_masks_in_every_window(parts, scene, windows, outside):
    model, *rest = scene(pose_outside=outside)
    whole = sampled(parts, model, *rest)
    torch.testing.assert_close(sampled(parts, windows(model), *rest), whole, **SAME)
    # After a run with windows, the same objects do the whole again.
    assert torch.equal(sampled(parts, model, *rest), whole)


def test_windows_pick_control_of_a_model_that_is_not_of_the_scene(parts, scene):
    _, *rest = scene()
    whole = sampled(parts, parts.model, *rest)
    torch.testing.assert_close(sampled(parts, core_windows(parts.model), *rest), whole, **SAME)


def test_a_prompt_with_an_area_gets_the_pose_of_its_area(parts, scene):
    model, positive, negative, latent = scene(frame_count=2, pose_outside=1.0)
    text, extra = positive[0]
    areas = [(8, 16, 0, 0), (8, 16, 8, 0)]
    prompts = [[text, {**extra, "area": area}] for area in areas]
    _, hints = hints_seen(
        parts, lambda: sampled(parts, model, [*positive, *prompts], negative, latent)
    )
    whole = extra["control"].hint_nchw
    heads = {hint.shape[-2] for hint in hints}
    assert heads == {SIZE, SIZE // 2}
    upper, lower = whole[..., : SIZE // 2, :], whole[..., SIZE // 2 :, :]
    found = [row for hint in hints if hint.shape[-2] == SIZE // 2 for row in hint]
    for expected in (*upper, *lower):
        assert any(torch.allclose(row, expected.to(row)) for row in found)
    for row in found:
        assert any(torch.allclose(row, one.to(row)) for one in (*upper, *lower))


def cropped_prompts(prompts, region, canvas, tile):
    """What Ultimate SD Upscale does to the prompts of a tile, 8 bit included."""
    x1, y1, x2, y2 = region

    def resized(length, size, whole):
        return length * size // whole

    out = []
    for text, extra in prompts:
        control = extra["control"].copy()
        hint = control.cond_hint_original
        height, width = hint.shape[-2:]
        rows = slice(resized(y1, height, canvas[1]), resized(y2, height, canvas[1]))
        columns = slice(resized(x1, width, canvas[0]), resized(x2, width, canvas[0]))
        hint = torch.nn.functional.interpolate(hint[..., rows, columns], size=tile[::-1])
        pictures = [
            Image.fromarray((255.0 * one.movedim(0, -1).numpy()).clip(0, 255).astype(np.uint8))
            for one in hint
        ]
        back = [torch.from_numpy(np.asarray(p).astype(np.float32) / 255.0) for p in pictures]
        control.cond_hint_original = torch.stack(back).movedim(-1, 1)
        values = {**extra, "control": control}
        if "mask" in values:
            mask = torch.nn.functional.interpolate(values["mask"][:, None], size=canvas[::-1])[:, 0]
            values["mask"] = mask[:, y1:y2, x1:x2]
        out.append([text, values])
    return out


@pytest.mark.parametrize("scale", [1, 2])
def test_a_tile_whose_prompts_are_cropped_shows_its_part(parts, scene, scale):
    """Against the same part built by hand: pose, control map and reference mask cut out."""
    model, positive, negative, _ = scene(frame_count=1)
    canvas, tile = (SIZE * scale, SIZE * scale), (64 * scale, 64 * scale)
    region = (64 * scale, 32 * scale, 128 * scale, 96 * scale)
    latent = {"samples": torch.zeros(1, 4, tile[1] // 8, tile[0] // 8)}
    cropped = [cropped_prompts(side, region, canvas, tile) for side in (positive, negative)]
    ours = sampled(parts, model, *cropped, latent)

    control = positive[0][1]["control"]
    rows, columns = slice(4, 12), slice(8, 16)  # of the scene's 16 x 16 latents
    hint = control.hint_nchw[..., 32:96, 64:128].movedim(1, -1)
    mask = control.mask_nhw[:, rows, columns]
    net = parts.runtime("control_masks").placed_control(parts.control_net, mask)
    bare = [
        [[text, {k: v for k, v in extra.items() if k != "control"}] for text, extra in side]
        for side in cropped
    ]
    sides = parts.runtime("control_masks").apply_control(bare, net, hint)
    reference = next(iter(parts.runtime("reference_run").references_in(model.model_options)))
    torch.manual_seed(0)
    attire = parts.cast.make_reference("attire", torch.rand(1, 32, 32, 3))
    with torch.inference_mode():
        by_hand = parts.runtime("ip_adapter").apply_reference(
            parts.model,
            parts.adapter,
            parts.vision,
            attire.prepared_images(),
            mask=reference.mask[:, rows, columns],
            **attire.attention_options(),
        )
    torch.testing.assert_close(ours, sampled(parts, by_hand, *sides, latent), **SAME)
    assert float((ours - sampled(parts, model, positive, negative, latent)).abs().max()) > 1e-3


def test_the_scene_at_another_scale_is_the_same_picture(parts, scene):
    model, positive, negative, _ = scene(frame_count=1, pose_outside=1.0)
    latent = {"samples": torch.zeros(1, 4, 32, 32)}
    _, hints = hints_seen(parts, lambda: sampled(parts, model, positive, negative, latent))
    whole = torch.nn.functional.interpolate(positive[0][1]["control"].hint_nchw, scale_factor=2)
    assert torch.allclose(hints[0][0], whole[0].to(hints[0]))


@pytest.mark.parametrize("nets", [{}, {"control_net": None}, {"attire": None}])
def test_latents_of_another_shape_are_refused_in_words(parts, scene, nets):
    made = scene(frame_count=1, **nets)
    with pytest.raises(ValueError, match="a picture of 128x128, but the latents are 96x128"):
        sampled(parts, *made[:3], {"samples": torch.zeros(1, 4, 16, 12)})


@pytest.mark.parametrize("nets", [{}, {"control_net": None}, {"attire": None}])
def test_one_picture_of_many_frames_names_the_way_out(parts, scene, nets):
    made = scene(**nets)
    with pytest.raises(ValueError, match="meet 1 latents.*first_frame.*frame_count 1"):
        sampled(parts, *made[:3], {"samples": torch.zeros(1, 4, 16, 16)})
    assert len(sampled(parts, *made)) == FRAMES


def test_tiles_of_unknown_place_are_refused_in_words(parts, scene):
    """What Tiled Diffusion does: the model is handed tiles, and control is asked anew for each."""
    model, *rest = scene(frame_count=1)

    def tiles(apply_model, args):
        for half in args["input"].split(args["input"].shape[-1] // 2, dim=-1):
            apply_model(half, args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(tiles)
    with pytest.raises(ValueError, match="handed a part of 64x128 of unknown place"):
        sampled(parts, model, *rest)


def test_places_are_read_from_any_crop(parts):
    view = parts.runtime("view")
    picture = view.places(300, 700)
    for top, left, height, width in ((0, 0, 300, 700), (17, 299, 64, 256), (299, 699, 1, 1)):
        crop = picture[..., top : top + height, left : left + width]
        expected = (top / 300, left / 700, height / 300, width / 700)
        for scale in (1, 2, 3.3, 0.5):
            sides = (max(round(height * scale), 1), max(round(width * scale), 1))
            small = torch.nn.functional.interpolate(crop, size=sides, mode="nearest-exact")
            found = view.part_of_places(small, 300, 700)
            if height > 1:
                assert found == pytest.approx(expected, abs=2 / 300), scale
            else:
                assert found == pytest.approx(expected)
    assert view.part_of_places(picture.flip(-1), 300, 700) is None
    assert view.part_of_places(torch.nn.functional.pad(picture, (64, 64, 0, 0)), 300, 700) is None


STOCHASTIC = ("euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde", "dpmpp_3m_sde_gpu", "lcm", "er_sde")


@pytest.mark.parametrize("sampler", ["euler", *STOCHASTIC])
def test_a_frame_is_the_same_in_any_chunking(parts, scene, sampler):
    together = sampled(parts, *scene(), sampler=sampler, steps=4)
    for first, count in ((0, 2), (2, 3)):
        chunk = sampled(
            parts, *scene(first_frame=first, frame_count=count), sampler=sampler, steps=4
        )
        torch.testing.assert_close(chunk, together[first : first + count], **SAME)
    assert float((together[0] - together[1]).abs().max()) > 0.05


@pytest.mark.parametrize("sampler", ["euler", *STOCHASTIC])
def test_the_first_frame_alone_has_core_s_own_noise(parts, scene, sampler):
    model, *rest = scene(frame_count=1, attire=None)
    ours = sampled(parts, model, *rest, sampler=sampler, steps=4)
    assert torch.equal(ours, sampled(parts, parts.model, *rest, sampler=sampler, steps=4))


def test_a_unified_loader_brings_adapter_and_encoder(parts, scene):
    pipeline = {
        "clipvision": {"file": "vit-h", "model": parts.vision},
        "ipadapter": {"file": "plus", "model": parts.adapter},
        "insightface": {"provider": None, "model": None},
    }
    theirs = sampled(parts, *scene(ipadapter=pipeline, clip_vision=None, frame_count=1))
    assert torch.equal(theirs, sampled(parts, *scene(frame_count=1)))


def test_shared_noise_is_shared_in_every_step(parts, scene):
    model, positive, negative, latent = scene(shared_noise=True, attire=None)
    bare = [[text, {"pooled_output": extra["pooled_output"]}] for text, extra in positive[:1]]
    out = sampled(parts, model, bare, bare, latent, sampler="euler_ancestral", steps=4)
    torch.testing.assert_close(out, out[:1].expand_as(out), **SAME)


def test_a_sampler_is_not_changed(parts, scene):
    import comfy.samplers

    model, positive, negative, latent = scene()
    sampler = comfy.samplers.sampler_object("euler_ancestral")
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    noise = comfy.sample.prepare_noise(latent["samples"], 5, latent["batch_index"])
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "karras", 2)
    with torch.inference_mode():
        guider.sample(noise, latent["samples"], sampler, sigmas, disable_pbar=True, seed=5)
    assert sampler.extra_options == {}
