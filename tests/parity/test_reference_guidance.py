"""Who is told a reference: decided by the names a guider gives, whatever order it asks in."""

import pytest
import torch

from tests.parity import tiny

CLOSE = 3e-6  # other batch sizes round differently


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return ((a - b).abs().max() / a.abs().max()).item() <= CLOSE


@pytest.fixture(scope="module")
def trio(tiny_sdxl):
    """A model with a reference, and two where everybody, or nobody, is told it."""
    t = tiny_sdxl
    adapter = t.adapters["plus"]
    embeds = t.runtime.encode_reference(adapter, t.vision, tiny.pictures(1, seed=3))

    def told(positive, negative):
        both = type(embeds)(positive, negative, embeds.feature)
        return t.runtime.apply_reference(t.model, adapter, None, None, embeds=both)

    return {
        "model": told(embeds.features, embeds.negative),
        "all": told(embeds.features, embeds.features),
        "none": told(embeds.negative, embeds.negative),
    }


def replay(model, call, row) -> torch.Tensor:
    options = dict(model.model_options["transformer_options"], sigmas=torch.tensor([1.0]))
    with torch.inference_mode():
        return model.model.diffusion_model(
            call.x[row : row + 1],
            call.timesteps[row : row + 1],
            context=call.context[row : row + 1],
            y=call.vector[row : row + 1],
            transformer_options=options,
        )


def who_was_told(trio, calls) -> list[tuple]:
    """(uuid, told) of every conditioning the model was asked about, found out by asking again."""
    found = []
    for call in calls:
        for row, uuid in enumerate(call.uuids):
            output = call.output[row : row + 1]
            answers = [close(replay(trio[name], call, row), output) for name in ("all", "none")]
            assert sum(answers) == 1, "neither told nor not told"
            found.append((uuid, answers[0]))
    return found


def ids(guider, name) -> set:
    return {cond["uuid"] for cond in guider.original_conds[name]}


def outputs_of(calls, uuid) -> list[torch.Tensor]:
    return [c.output[i] for c in calls for i, known in enumerate(c.uuids) if known == uuid]


def make_cfg(model, comfy_modules):
    guider = comfy_modules["samplers"].CFGGuider(model)
    guider.set_conds(tiny.conditioning(11), tiny.conditioning(12))
    guider.set_cfg(3.0)
    return guider, {"positive": True, "negative": False}


def make_cfg_one(model, comfy_modules):
    guider, told = make_cfg(model, comfy_modules)
    guider.set_cfg(1.0)
    return guider, {"positive": True}


def make_basic(model, comfy_modules):
    guider = comfy_modules["custom_sampler"].Guider_Basic(model)
    guider.set_conds(tiny.conditioning(11))
    return guider, {"positive": True}


def make_dual(model, comfy_modules):
    guider = comfy_modules["custom_sampler"].Guider_DualCFG(model)
    guider.set_conds(tiny.conditioning(11), tiny.conditioning(13), tiny.conditioning(12))
    guider.set_cfg(3.0, 2.0)
    return guider, {"positive": True, "middle": False, "negative": False}


def make_dual_nested(model, comfy_modules):
    guider, told = make_dual(model, comfy_modules)
    guider.set_cfg(3.0, 2.0, nested=True)
    return guider, told


def make_dual_model(model, comfy_modules):
    guider = comfy_modules["custom_sampler"].Guider_DualModel(model, model.clone())
    guider.set_conds(tiny.conditioning(11), tiny.conditioning(12))
    guider.set_cfg(3.0)
    return guider, {"positive": True, "negative": False}


def make_perp_neg(model, comfy_modules):
    guider = comfy_modules["perpneg"].Guider_PerpNeg(model)
    guider.set_conds(tiny.conditioning(11), tiny.conditioning(12), tiny.conditioning(13))
    guider.set_cfg(3.0, 1.0)
    return guider, {"positive": True, "negative": False, "empty_negative_prompt": False}


def make_backwards(model, comfy_modules):
    samplers = comfy_modules["samplers"]

    class Backwards(samplers.CFGGuider):
        """Asks for the negative prompt first, and for each prompt once more alone."""

        def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006
            negative, positive = self.conds["negative"], self.conds["positive"]
            ask = samplers.calc_cond_batch
            out = ask(self.inner_model, [negative, positive], x, timestep, model_options)
            ask(self.inner_model, [negative], x, timestep, model_options)
            ask(self.inner_model, [None, None, positive], x, timestep, model_options)
            return out[0] + 3.0 * (out[1] - out[0])

    guider = Backwards(model)
    guider.set_conds(tiny.conditioning(11), tiny.conditioning(12))
    return guider, {"positive": True, "negative": False}


GUIDERS = {
    name.removeprefix("make_"): make for name, make in globals().items() if name.startswith("make_")
}


@pytest.fixture(scope="module")
def comfy_modules(tiny_sdxl):
    import comfy.samplers
    import comfy_extras.nodes_custom_sampler
    import comfy_extras.nodes_perpneg

    return {
        "samplers": comfy.samplers,
        "custom_sampler": comfy_extras.nodes_custom_sampler,
        "perpneg": comfy_extras.nodes_perpneg,
    }


@pytest.mark.parametrize("name", GUIDERS)
def test_the_positive_prompt_is_told_and_no_other(trio, comfy_modules, name):
    guider, told = GUIDERS[name](trio["model"], comfy_modules)
    _, calls = tiny.sample(trio["model"], guider, steps=1)
    expected = {uuid: flag for key, flag in told.items() for uuid in ids(guider, key)}
    assert dict(who_was_told(trio, calls)) == expected


@pytest.mark.parametrize("name", GUIDERS)
def test_every_guider_gets_the_same_positive_answer(trio, comfy_modules, name):
    def positive(make):
        guider, _ = make(trio["model"], comfy_modules)
        _, calls = tiny.sample(trio["model"], guider, steps=1)
        (uuid,) = ids(guider, "positive")
        return outputs_of(calls, uuid)

    (plain,) = positive(make_cfg)
    for answer in positive(GUIDERS[name]):
        assert close(plain, answer)


def test_self_attention_guidance_asks_for_the_negative_alone(trio, tiny_sdxl, comfy_modules):
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    model = SelfAttentionGuidance.execute(trio["model"], 0.5, 2.0).result[0]
    guider, told = make_cfg(model, comfy_modules)
    _, calls = tiny.sample(model, guider, steps=1)
    assert [call.cond_or_uncond for call in calls][1:] == [(0,)]  # the negative, as number 0
    expected = {uuid: flag for key, flag in told.items() for uuid in ids(guider, key)}
    seen = who_was_told(trio, calls)
    assert len(seen) == 3 and dict(seen) == expected


def test_prompts_made_on_the_way_are_not_told(trio, comfy_modules):
    from comfy_extras.nodes_perpneg import PerpNeg

    model = PerpNeg.execute(trio["model"], tiny.conditioning(13), 1.0).result[0]
    guider, told = make_cfg(model, comfy_modules)
    _, calls = tiny.sample(model, guider, steps=1)
    seen = dict(who_was_told(trio, calls))
    assert {seen[uuid] for uuid in ids(guider, "positive")} == {True}
    assert {flag for uuid, flag in seen.items() if uuid not in ids(guider, "positive")} == {False}
    assert len(seen) == 3


def test_an_area_prompt_copied_into_the_negative_list_is_not_told_there(trio, comfy_modules):
    # ComfyUI gives the negative list a copy of the positive area, with the same id.
    guider = comfy_modules["samplers"].CFGGuider(trio["model"])
    text, extra = tiny.conditioning(11)[0]
    area = [text, {**extra, "area": (8, 16, 4, 0), "strength": 1.0}]
    guider.set_conds([area, *tiny.conditioning(14)], tiny.conditioning(12))
    guider.set_cfg(3.0)
    _, calls = tiny.sample(trio["model"], guider, steps=1)
    shared = guider.original_conds["positive"][0]["uuid"]
    rows = [(c, i) for c in calls for i, uuid in enumerate(c.uuids) if uuid == shared]
    assert sorted(call.cond_or_uncond[row] for call, row in rows) == [0, 1]
    for call, row in rows:
        told = replay(trio["all" if call.cond_or_uncond[row] == 0 else "none"], call, row)
        assert close(told, call.output[row : row + 1])


def test_nodes_that_ask_the_model_past_comfyui_s_wrappers(trio, comfy_modules):
    samplers = comfy_modules["samplers"]
    model = trio["model"].clone()

    def ask(args):
        asked = samplers._calc_cond_batch(
            args["model"], args["conds"][::-1], args["input"], args["sigma"], args["model_options"]
        )
        return asked[::-1]

    model.set_model_sampler_calc_cond_batch_function(ask)
    guider, told = make_cfg(model, comfy_modules)
    _, calls = tiny.sample(model, guider, steps=1)
    expected = {uuid: flag for key, flag in told.items() for uuid in ids(guider, key)}
    assert dict(who_was_told(trio, calls)) == expected


def test_several_prompts_on_each_side(trio, comfy_modules):
    guider = comfy_modules["samplers"].CFGGuider(trio["model"])
    guider.set_conds(
        tiny.conditioning(11) + tiny.conditioning(14), tiny.conditioning(12, tokens=20)
    )
    guider.set_cfg(3.0)
    _, calls = tiny.sample(trio["model"], guider, steps=1)
    seen = dict(who_was_told(trio, calls))
    assert [seen[uuid] for uuid in ids(guider, "positive")] == [True, True]
    assert [seen[uuid] for uuid in ids(guider, "negative")] == [False]


def test_a_model_asked_without_a_guider_takes_core_s_order(trio, tiny_sdxl):
    generator = torch.Generator().manual_seed(5)
    inputs = {
        "context": torch.randn(2, 9, tiny.CONTEXT, generator=generator),
        "y": torch.randn(2, tiny.POOLED + 6 * tiny.TIME_IDS, generator=generator),
    }
    x = torch.randn(2, 4, 16, 16, generator=generator)
    unet = tiny_sdxl.model.model.diffusion_model

    def ask(name, **options):
        to = {**trio[name].model_options["transformer_options"], **options}
        with torch.inference_mode():
            return unet(x, torch.tensor([500.0, 500.0]), transformer_options=to, **inputs)

    mixed = ask("model", cond_or_uncond=[1, 0])
    assert close(mixed[0], ask("none", cond_or_uncond=[1, 0])[0])
    assert close(mixed[1], ask("all", cond_or_uncond=[1, 0])[1])
    assert close(ask("model"), ask("all"))


def test_names_and_marks_decide(tiny_sdxl):
    import importlib

    name = tiny_sdxl.runtime.__name__.replace(".ip_adapter", ".polarity")
    told = importlib.import_module(name).told_by_name
    assert all(told(name) for name in ("positive", "positive_2", "cond1", "refine"))
    assert not any(told(n) for n in ("negative", "neg", "uncond", "empty_negative_prompt"))
    assert not told("middle", [{"prompt_type": "negative"}])
    assert told("positive", [{"prompt_type": "negative"}])
