"""The loss against diffusers' schedulers and a plain diffusers + PEFT training step."""

import pytest
import torch

from training.objective import Objective, alphas_cumprod


def scheduler(**kwargs):
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        **kwargs,
    )


@pytest.mark.parametrize("zero", [False, True])
def test_schedule_is_that_of_diffusers(zero):
    expected = scheduler(rescale_betas_zero_snr=zero).alphas_cumprod
    torch.testing.assert_close(alphas_cumprod(zero), expected, atol=2e-7, rtol=1e-5)
    if zero:
        assert alphas_cumprod(True)[-1] == 0


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_and_target_are_those_of_diffusers(prediction):
    oracle = scheduler(prediction_type=prediction)
    objective = Objective(prediction)
    latents = torch.randn(3, 4, 5, 7)
    noise, times = objective.draw(latents, torch.Generator().manual_seed(0))
    noisy = objective.noisy(latents, noise, times)
    torch.testing.assert_close(noisy, oracle.add_noise(latents, noise, times))
    target = noise if prediction == "epsilon" else oracle.get_velocity(latents, noise, times)

    class Perfect(torch.nn.Module):
        def forward(self, *_, **__):
            return (target + torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1),)

    from training.objective import Batch

    batch = Batch(latents, torch.zeros(3, 1, 1), torch.zeros(3, 1), torch.zeros(3, 6))
    losses = objective.losses(Perfect(), batch, noise, times, torch.float32)
    torch.testing.assert_close(losses, torch.tensor([0.0, 1.0, 4.0]))


def test_timesteps_fill_their_range():
    objective = Objective(timestep_range=(200, 203))
    _, times = objective.draw(torch.zeros(300, 4, 1, 1), torch.Generator().manual_seed(0))
    assert set(times.tolist()) == {200, 201, 202}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": {"prediction": "v_prediction"}},
        {"batch": {"size": 2}},
        {"adapter": {"alpha": 8.0}},
        {"memory": {"gradient_checkpointing": "on"}},
    ],
    ids=["epsilon", "v_prediction", "batch of two", "alpha", "checkpointing"],
)
def test_first_gradient_equals_plain_diffusers_and_peft(changes, make_loop, tiny_models):
    plan, adapter, data, loop = make_loop(changes)
    adapter.unet.train()
    if plan.checkpointing:
        adapter.unet.enable_gradient_checkpointing()
    with torch.no_grad():  # a fresh LoRA has no gradient on its down matrices
        for i, (_, pair) in enumerate(adapter.pairs()):
            pair.up.normal_(std=0.02, generator=torch.Generator().manual_seed(i))
    indices = plan.sampler.batch(0)
    loss = loop._loss(indices, 0)
    loss.backward()
    expected_loss, gradients = plain_gradients(plan, adapter, indices, tiny_models)
    torch.testing.assert_close(loss.detach(), expected_loss, atol=1e-6, rtol=1e-6)
    for name, pair in adapter.pairs():
        for side, value in (("lora_A", pair.down.grad), ("lora_B", pair.up.grad)):
            oracle = gradients[f"{name}.{side}.default.weight"]
            assert oracle.abs().max() > 0
            torch.testing.assert_close(value, oracle, atol=1e-6, rtol=1e-4)


def plain_gradients(plan, adapter, indices, models):
    """Loss and gradients from the libraries alone: nothing of our loop, cache or objective."""
    import copy

    from peft import LoraConfig

    from training.buckets import place_image
    from training.rng import generator

    unet = copy.deepcopy(models["unet"])
    rank, alpha = plan.job.adapter.rank, plan.job.alpha
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=adapter.names))
    own = {
        f"{n}.{s}.default.weight": w.detach()
        for n, pair in adapter.pairs()
        for s, w in (("lora_A", pair.down), ("lora_B", pair.up))
    }
    missing, unexpected = unet.load_state_dict(own, strict=False)
    assert not unexpected and not any("lora" in key for key in missing)
    places = [plan.placements[i] for i in indices]
    with torch.no_grad():
        pixels = torch.stack([place_image(p) for p in places])
        latents = models["vae"].encode(pixels).latents * 0.13025
        context, pooled = plain_text(plan, [p.item.caption for p in places], models)
    random = generator(plan.job.seed, "noise", 0)
    noise = torch.randn(latents.shape, generator=random)
    times = torch.randint(0, 1000, (len(places),), generator=random)
    oracle = scheduler(prediction_type=plan.prediction)
    ids = []
    for place in places:
        (w, h), (left, top), (tw, th) = place.original_size, place.crop_left_top, place.bucket_size
        ids.append([h, w, top, left, th, tw])
    predicted = unet(
        oracle.add_noise(latents, noise, times),
        times,
        encoder_hidden_states=context,
        added_cond_kwargs={"text_embeds": pooled, "time_ids": torch.tensor(ids)},
    ).sample
    target = noise
    if plan.prediction == "v_prediction":
        target = oracle.get_velocity(latents, noise, times)
    loss = torch.nn.functional.mse_loss(predicted, target)
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in unet.named_parameters() if p.grad is not None}


def plain_text(plan, captions, models):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(plan.job.base.tokenizer)
    states = []
    for name, pad in (("text_l", 49407), ("text_g", 0)):
        rows = [tokenizer(c).input_ids for c in captions]
        ids = torch.tensor([r + [pad] * (77 - len(r)) for r in rows])
        output = models[name](ids, output_hidden_states=True)
        states.append(output.hidden_states[-2])
    return torch.cat(states, dim=-1), output.text_embeds
