"""References on a model: nothing leaks, nothing is patched in vain, everything composes."""

import gc
import weakref

import pytest
import torch

from tests.parity import tiny

CLOSE = 1e-6


@pytest.fixture
def apply(tiny_sdxl):
    """apply(model=..., seed=..., **options): a random reference with the Plus adapter."""

    def applied(model=None, seed=3, count=1, kind="plus", **options):
        images = tiny.pictures(count, seed=seed)
        return tiny_sdxl.runtime.apply_reference(
            model or tiny_sdxl.model, tiny_sdxl.adapters[kind], tiny_sdxl.vision, images, **options
        )

    return applied


def result(model, **options) -> torch.Tensor:
    return tiny.sample(model, **options)[0]


def patches(model) -> dict:
    options = model.model_options["transformer_options"]
    return options.get("patches_replace", {}).get("attn2", {})


def close(a: torch.Tensor, b: torch.Tensor, limit: float = CLOSE) -> bool:
    return ((a - b).abs().max() / a.abs().max()).item() <= limit


class Recorder:
    """Stands in for a patch and counts its calls."""

    def __init__(self, inner):
        self.inner = inner
        self.calls = []

    def __call__(self, q, k, v, options):
        self.calls.append(dict(options))
        return self.inner(q, k, v, options)


def test_every_cross_attention_is_reached_once_and_the_middle_is_one_of_them(tiny_sdxl, apply):
    model = apply()
    recorders = {key: Recorder(patch) for key, patch in patches(model).items()}
    patches(model).update(recorders)
    tiny.sample(model, steps=1)
    expected = sum(
        name.endswith("attn2") for name, _ in tiny_sdxl.model.model.diffusion_model.named_modules()
    )
    assert len(recorders) == expected
    assert {key: len(r.calls) for key, r in recorders.items()} == dict.fromkeys(recorders, 1)
    assert [key for key in recorders if key[0] == "middle"] == [("middle", 0, i) for i in range(3)]
    for key, recorder in recorders.items():
        seen = recorder.calls[0]
        assert (*seen["block"], seen["block_index"]) == key
        # The index that roles are written in is the one ComfyUI counts while it runs.
        assert recorder.inner.layer.transformer_index == seen["transformer_index"]


def test_each_transformer_can_be_chosen_alone(tiny_sdxl, apply):
    plain = result(tiny_sdxl.model)
    outcomes = []
    for index in range(11):
        model = apply(layer_weights={index: 1.0})
        assert {patch.layer.transformer_index for patch in patches(model).values()} == {index}
        outcomes.append(result(model))
        assert not torch.equal(outcomes[-1], plain)
    assert {key[0] for key in patches(apply(layer_weights={4: 1.0}))} == {"middle"}
    assert patches(apply(layer_weights={99: 1.0})) == {}


def test_factors_multiply_the_weight(apply):
    assert torch.equal(
        result(apply(weight=0.5, layer_weights=dict.fromkeys(range(11), 1.6))),
        result(apply(weight=0.8)),
    )


@pytest.mark.parametrize(
    "options",
    [{"weight": 0.0}, {"mask": torch.zeros(1, 32, 32)}, {"layer_weights": {3: 0.0}}],
    ids=["weight", "mask", "layers"],
)
def test_nothing_to_say_adds_no_patch(tiny_sdxl, apply, options):
    model = apply(**options)
    assert model is not tiny_sdxl.model
    assert patches(model) == {}
    assert not model.wrappers
    assert torch.equal(result(model), result(tiny_sdxl.model))


def test_a_white_mask_is_no_mask(apply):
    assert torch.equal(result(apply(mask=torch.ones(1, 40, 24))), result(apply()))


def test_a_branch_never_sees_what_another_branch_added(tiny_sdxl, apply):
    plain = result(tiny_sdxl.model)
    first = apply(seed=3)
    alone = result(first)
    options_before = {key: patch.references for key, patch in patches(first).items()}
    second = apply(first, seed=4)
    third = apply(first, seed=5, weight=0.3)
    apply(second, seed=6)
    assert not torch.equal(result(second), alone)
    assert not torch.equal(result(third), result(second))
    assert torch.equal(result(first), alone)
    assert torch.equal(result(tiny_sdxl.model), plain)
    assert {key: patch.references for key, patch in patches(first).items()} == options_before
    assert len(patches(second)[("middle", 0, 0)].references) == 2


def test_two_references_commute(apply):
    one = result(apply(apply(seed=3, weight=0.7), seed=4, kind="base"))
    other = result(apply(apply(seed=4, kind="base"), seed=3, weight=0.7))
    assert close(one, other)


def test_references_share_one_copy_of_the_adapter(tiny_sdxl, apply):
    model = apply(apply(seed=3), seed=4)
    weights = {id(ref.weights) for patch in patches(model).values() for ref in patch.references}
    assert len(weights) == 1
    loaded = tiny_sdxl.runtime.LoadedAdapter(tiny_sdxl.adapters["plus"], "some.safetensors")
    first, second = (
        tiny_sdxl.runtime.apply_reference(
            tiny_sdxl.model, loaded, tiny_sdxl.vision, tiny.pictures(1, seed)
        )
        for seed in (3, 4)
    )
    assert (
        patches(first)[("middle", 0, 0)].references[0].weights
        is patches(second)[("middle", 0, 0)].references[0].weights
    )


def test_encoding_once_for_several_places(tiny_sdxl):
    t = tiny_sdxl
    images = tiny.pictures(2, seed=3)
    embeds = t.runtime.encode_reference(t.adapters["plus"], t.vision, images)
    again = t.runtime.apply_reference(t.model, t.adapters["plus"], None, None, embeds=embeds)
    at_once = t.runtime.apply_reference(t.model, t.adapters["plus"], t.vision, images)
    assert torch.equal(result(again), result(at_once))


def test_frames_in_a_batch_equal_frames_alone(tiny_sdxl):
    t = tiny_sdxl
    images = tiny.pictures(3, seed=9)
    masks = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    latents = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(2))

    def run(rows):
        model = t.runtime.apply_reference(
            t.model,
            t.adapters["plus"],
            t.vision,
            images[rows],
            mask=masks[rows],
            per_frame=True,
        )
        # All frames start from the noise of the first, so only the reference tells them apart.
        calls = tiny.sample(model, latent=latents[rows], steps=1)[1]
        options = {"cond_or_uncond": list(calls[0].cond_or_uncond)}
        return model, calls[0], options

    model, call, options = run([0, 1, 2])
    together = call.output.unflatten(0, (2, 3))
    for frame in range(3):
        single, _, _ = run([frame])
        rows = [frame, 3 + frame]
        alone = replay(single, call, rows, options["cond_or_uncond"])
        assert close(together[:, frame], alone, 3 * CLOSE)  # another batch size rounds differently
    assert not close(together[:, 0], together[:, 1])


def replay(model, call, rows, cond_or_uncond) -> torch.Tensor:
    """Ask the UNet again for some rows of a recorded call, without any guider."""
    options = {
        **model.model_options["transformer_options"],
        "cond_or_uncond": cond_or_uncond,
        "sigmas": torch.tensor([1.0]),
    }
    options.pop("wrappers", None)
    with torch.inference_mode():
        return model.model.diffusion_model(
            call.x[rows],
            call.timesteps[rows],
            context=call.context[rows],
            y=call.vector[rows],
            transformer_options=options,
        )


@pytest.mark.parametrize(
    ("start", "end", "active"),
    [
        (0.0, 1.0, [True, True, True, True]),
        (0.0, 0.2, [True, False, False, False]),
        (0.2, 0.5, [False, True, False, False]),
        (0.5, 1.0, [False, False, True, True]),
        (0.9, 1.0, [False, False, False, True]),
    ],
)
def test_start_and_end(tiny_sdxl, apply, start, end, active):
    # The "normal" schedule of 4 steps asks at 0, 1/3, 2/3 and all of the way.
    model = apply(start_percent=start, end_percent=end)
    calls = tiny.sample(model, steps=4)[1]
    seen = []
    for call in calls:
        rows = list(range(call.x.shape[0]))
        plain = replay(tiny_sdxl.model, call, rows, list(call.cond_or_uncond))
        seen.append(not close(plain, call.output))
    assert seen == active


def test_both_ends_are_included_and_follow_a_later_change_of_the_schedule(tiny_sdxl, apply):
    import comfy.model_sampling

    model = apply(start_percent=0.25, end_percent=0.5)
    reference = patches(model)[("middle", 0, 0)].references[0]
    run_type = _module(tiny_sdxl, "reference_run").ReferenceRun
    sampling = model.get_model_object("model_sampling")

    class Guider:
        model_patcher = model

    run = run_type(Guider(), [reference], (1, 4, 16, 16))
    high, low = sampling.percent_to_sigma(0.25), sampling.percent_to_sigma(0.5)
    assert [run.active(reference, s) for s in (high, low, (high + low) / 2)] == [True] * 3
    assert [run.active(reference, s) for s in (high * 1.0001, low * 0.9999)] == [False] * 2

    class Shifted(comfy.model_sampling.ModelSamplingDiscrete):
        def percent_to_sigma(self, percent):
            return super().percent_to_sigma(percent) * 2

    model.add_object_patch("model_sampling", Shifted())
    run = run_type(Guider(), [reference], (1, 4, 16, 16))
    assert not run.active(reference, low) and run.active(reference, 2 * low)


def _module(tiny_sdxl, name):
    import importlib

    return importlib.import_module(tiny_sdxl.runtime.__name__.replace(".ip_adapter", f".{name}"))


class Foreign:
    """A patch of another pack: doubles the attention output; `to` makes a new one."""

    def __init__(self, model=None, device=None):
        self.model = model
        self.device = device

    def __call__(self, q, k, v, options):
        from comfy.ldm.modules.attention import optimized_attention

        return 2 * optimized_attention(q, k, v, options["n_heads"])

    def to(self, device):
        return Foreign(self.model, device)

    def models(self):
        return [self.model]


def test_foreign_patches_keep_working_under_ours(tiny_sdxl, apply):
    base = tiny_sdxl.model.clone()
    foreign = Foreign(tiny_sdxl.vision.patcher)
    for depth in range(3):
        base.set_model_attn2_replace(foreign, "middle", 0, depth)
    base.set_model_attn2_replace(foreign, "input", 4)  # for the whole block
    ours = apply(base)
    assert not torch.equal(result(ours), result(base))
    generator = torch.Generator().manual_seed(0)
    q, text = torch.randn(2, 9, 64, generator=generator), torch.randn(2, 5, 64, generator=generator)
    options = {"n_heads": 1, "cond_or_uncond": [0, 1], "attn_precision": None}
    stack, bare = patches(ours)[("input", 4, 1)], patches(apply())[("input", 4, 1)]
    theirs = foreign(q, text, text, options)
    said = bare(q, text, text, options) - theirs / 2
    assert close(stack(q, text, text, options), theirs + said)
    assert stack.models() == [tiny_sdxl.vision.patcher]
    kept, moved = stack.base, stack.to("meta")
    assert moved.base.device == "meta" and stack.base is kept and foreign.device is None


def test_nodes_after_ours_can_add_and_reach_nobody_else(tiny_sdxl, apply):
    first = apply()
    before = result(first)
    later = first.clone()  # what every node does before it patches
    for patch in patches(later).values():
        patch.add(lambda out, q, k, v, options, **kw: 0.5 * out, sigma_start=1e9, sigma_end=0.0)
    assert not torch.equal(result(later), before)
    assert torch.equal(result(first), before)
    further = apply(later, seed=4)
    assert not torch.equal(result(further), result(apply(first, seed=4)))
    never = first.clone()
    for patch in patches(never).values():
        patch.add(lambda out, *_, **kw: out, sigma_start=-1.0, sigma_end=-2.0)
    assert torch.equal(result(never), before)


def test_attention_overrides_and_precision_reach_the_references(apply):
    model = apply(apply(seed=3), seed=4)
    seen = []

    def override(function, *args, **kwargs):
        if kwargs.get("transformer_options", {}).get("block") is not None:
            seen.append((args[1].shape[1], kwargs["attn_precision"]))
        return function(*args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = override
    tiny.sample(model, steps=1)
    tokens = tiny.PLUS["tokens"]
    layers = len(patches(model))
    assert sum(length == tokens for length, _ in seen) == 2 * layers
    options = {
        "n_heads": 1,
        "attn_precision": torch.float32,
        "block": ("input", 4),
        "optimized_attention_override": override,
    }
    seen.clear()
    q = torch.randn(1, 9, 64)
    patches(model)[("input", 4, 0)](q, q, q, options)
    assert seen == [(9, torch.float32), (tokens, torch.float32), (tokens, torch.float32)]


def test_keys_and_values_are_projected_once_a_run(apply):
    import comfy.model_management

    model = apply()
    weights = patches(model)[("middle", 0, 0)].references[0].weights
    counted = []
    handles = [
        linear.register_forward_hook(lambda *_: counted.append(1))
        for linear in (*weights.module.to_k, *weights.module.to_v)
    ]
    tiny.sample(model, steps=4)
    layers = len(patches(model))
    assert len(counted) == 4 * layers  # keys and values, with and without the reference
    tiny.sample(model, steps=2)
    assert len(counted) == 8 * layers
    assert weights.patcher in comfy.model_management.loaded_models()
    assert weights.patcher.model_size() == sum(p.nbytes for p in weights.module.parameters())
    for handle in handles:
        handle.remove()


def test_nothing_is_kept_after_a_run(tiny_sdxl, apply, monkeypatch):
    import comfy.samplers

    module = _module(tiny_sdxl, "reference_stack")
    runs = []

    class Watched(module.ReferenceRun):
        def __init__(self, *args):
            super().__init__(*args)
            runs.append(weakref.ref(self))

    monkeypatch.setattr(module, "ReferenceRun", Watched)
    model = apply()
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny.conditioning(11), tiny.conditioning(12))
    guider.set_cfg(2.0)
    tiny.sample(model, guider)
    gc.collect()
    assert len(runs) == 1 and runs[0]() is None
    assert module.KEY not in model.model_options["transformer_options"]
    assert module.KEY not in guider.model_options["transformer_options"]


def test_too_large_references_are_projected_in_every_step_and_stay_loaded(
    tiny_sdxl, apply, monkeypatch
):
    model = apply()
    kept = result(model)
    stack = patches(model)[("middle", 0, 0)]
    assert stack.models() == []
    monkeypatch.setattr(_module(tiny_sdxl, "reference_run"), "CACHE_BYTES", 1000)
    assert torch.equal(result(model), kept)
    assert stack.models() == [stack.references[0].weights.patcher]
    assert stack.references[0].weights.patcher in model.model_patches_models()


def test_another_precision_of_the_model_gets_its_own_keys(apply):
    model = apply()
    exact = result(model)
    half = model.clone()
    half.set_model_compute_dtype(torch.bfloat16)
    rough = result(half)
    assert not torch.equal(exact, rough) and close(exact, rough, 0.05)
    assert torch.equal(result(model), exact)


def test_conditionings_run_one_by_one_give_the_same(tiny_sdxl, apply, monkeypatch):
    model = apply()
    _, calls = tiny.sample(model, steps=1)
    assert [len(call.cond_or_uncond) for call in calls] == [2]
    together = dict(zip(calls[0].cond_or_uncond, calls[0].output, strict=True))
    monkeypatch.setattr(type(model.model), "memory_required", lambda *a, **k: 1e30)
    _, calls = tiny.sample(model, steps=1)
    assert sorted(call.cond_or_uncond for call in calls) == [(0,), (1,)]
    for call in calls:
        # Another batch size rounds differently, with and without references.
        assert close(together[call.cond_or_uncond[0]], call.output[0], 3 * CLOSE)


def test_frames_that_do_not_fit_are_refused_before_the_first_step(tiny_sdxl, apply):
    error = _module(tiny_sdxl, "reference_run").IPAdapterError
    with pytest.raises(error, match="2 reference pictures meet 3 latents"):
        tiny.sample(apply(count=2, per_frame=True), frames=3)
    with pytest.raises(error, match="4 mask frames meet 3 latents"):
        tiny.sample(apply(mask=torch.rand(4, 8, 8)), frames=3)
    # The model is as usable as before.
    tiny.sample(apply(count=3, per_frame=True), frames=3)


def test_context_windows_pick_their_own_frames(apply):
    import comfy.context_windows

    model = apply(count=4, per_frame=True)
    calls = tiny.sample(model, frames=4, steps=1)[1]
    windowed = model.clone()
    windowed.model_options["context_handler"] = comfy.context_windows.IndexListContextHandler(
        context_schedule=comfy.context_windows.get_matching_context_schedule("standard_static"),
        fuse_method=comfy.context_windows.get_matching_fuse_method("pyramid"),
        context_length=2,
        context_overlap=0,
        dim=0,
    )
    parts = tiny.sample(windowed, frames=4, steps=1)[1]
    assert [part.x.shape[0] for part in parts] == [4, 6]
    whole = calls[0].output.unflatten(0, (2, 4))
    order = list(calls[0].cond_or_uncond)
    # The second window also shows the frame before it.
    for part, frames in zip(parts, ([0, 1], [1, 2, 3]), strict=True):
        out = part.output.unflatten(0, (2, len(frames)))
        for chunk, index in enumerate(part.cond_or_uncond):
            assert close(whole[order.index(index)][frames], out[chunk])
