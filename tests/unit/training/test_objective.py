"""The loss against diffusers' schedulers, the papers' formulas and plain diffusers + PEFT."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import huber_loss, smooth_l1_loss

from training import JobError, merge, parse_job
from training.diffusion import alphas_cumprod, signal_to_noise
from training.losses import LOSSES, THRESHOLDS, threshold_table
from training.noise import Draw
from training.objective import Batch, Objective
from training.plan import make_plan
from training.weighting import WEIGHTINGS, weight_table

PREDICTIONS = ("epsilon", "v_prediction")


def settings(**values):
    job = {"base": {"checkpoint": "-"}, "dataset": {"folder": "-"}, "objective": values}
    return parse_job(job).objective


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


@pytest.mark.parametrize(
    "prediction, zero", [("epsilon", False), ("v_prediction", False), ("v_prediction", True)]
)
def test_noise_and_target_are_those_of_diffusers(prediction, zero):
    oracle = scheduler(prediction_type=prediction, rescale_betas_zero_snr=zero)
    objective = Objective(settings(), prediction, zero)
    latents = torch.randn(3, 4, 5, 7)
    draw = objective.draw(latents, torch.Generator().manual_seed(0))
    noise, times = draw.noise, draw.timesteps
    noisy = objective.noisy(latents, noise, times)
    torch.testing.assert_close(noisy, oracle.add_noise(latents, noise, times))
    target = noise if prediction == "epsilon" else oracle.get_velocity(latents, noise, times)

    class Perfect(torch.nn.Module):
        def forward(self, *_, **__):
            return (target + torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1),)

    batch = Batch(latents, torch.zeros(3, 1, 1), torch.zeros(3, 1), torch.zeros(3, 6))
    losses = objective.losses(Perfect(), batch, draw, torch.float32)
    torch.testing.assert_close(losses, torch.tensor([0.0, 1.0, 4.0]))


def test_zero_terminal_snr_is_the_checkpoint_s_or_the_user_s(job_values):
    def plan(**objective):
        return make_plan(parse_job(merge(job_values, {"objective": objective})))

    assert plan().zero_terminal_snr is False
    v = plan(prediction="v_prediction", zero_terminal_snr="on")
    assert v.zero_terminal_snr and v.summary()["zero_terminal_snr"]
    off = plan(prediction="v_prediction", zero_terminal_snr="off")
    assert off.digest == plan(prediction="v_prediction").digest != v.digest
    with pytest.raises(JobError, match="objective.zero_terminal_snr.*v-prediction"):
        plan(zero_terminal_snr="on")


# --------------------------------------------------------------------------------- weightings


def diffusers_weights(weighting: str, prediction: str, gamma: float = 5.0) -> torch.Tensor:
    """The weights as training scripts write them, with diffusers' own SNR."""
    from diffusers.training_utils import compute_snr

    snr = compute_snr(scheduler(), torch.arange(1000))
    over = snr if prediction == "epsilon" else snr + 1
    return {
        "none": torch.ones(1000),
        "min_snr": torch.stack([snr, gamma * torch.ones_like(snr)], dim=1).min(dim=1)[0] / over,
        "soft_min_snr": 1 / (1 / snr + 1 / gamma) / over,
        "debiased": (1 / snr.sqrt()) if prediction == "epsilon" else snr.sqrt() / over,
        "like_epsilon": snr / over,
        "p2": snr / (1 + snr) / over,
    }[weighting]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_are_those_of_the_papers(weighting, prediction):
    table = weight_table(settings(weighting=weighting), prediction, alphas_cumprod())
    table = torch.ones(1000) if table is None else table
    torch.testing.assert_close(
        table, diffusers_weights(weighting, prediction), atol=1e-5, rtol=1e-4
    )


def test_numbers_of_the_min_snr_paper():
    snr = signal_to_noise(alphas_cumprod())
    epsilon = weight_table(settings(weighting="min_snr"), "epsilon", alphas_cumprod())
    assert torch.equal(epsilon[snr < 5], torch.ones(int((snr < 5).sum())))  # never above the plain
    clean = int((snr > 5).sum())
    assert epsilon[0] == pytest.approx(5 / float(snr[0]), rel=1e-4) and 100 < clean < 300
    wide = weight_table(settings(weighting="min_snr", min_snr_gamma=1000), "epsilon", snr * 0 + 0.5)
    assert torch.equal(wide, torch.ones(1000))  # a gamma that is never reached changes nothing


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_step_without_signal_has_a_finite_weight(weighting, prediction):
    table = weight_table(settings(weighting=weighting), prediction, alphas_cumprod(True))
    assert table is None or (torch.isfinite(table).all() and table.max() <= 100)


# ------------------------------------------------------------------------------------- losses


def test_losses_are_those_of_torch_and_the_paper():
    predicted, target = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0)) * 2
    error, d = predicted - target, 0.3
    expected = {
        "mse": error**2,
        "mae": error.abs(),
        "huber": 2 * huber_loss(predicted, target, reduction="none", delta=d),
        "smooth_l1": 2 * smooth_l1_loss(predicted, target, reduction="none", beta=d),
        "pseudo_huber": 2 * d * ((error**2 + d**2).sqrt() - d),
        "pseudo_smooth_l1": 2 * ((error**2 + d**2).sqrt() - d),
    }
    assert set(expected) == set(LOSSES)
    for name, oracle in expected.items():
        value = LOSSES[name].of(predicted, target, torch.tensor(d))
        torch.testing.assert_close(value, oracle, atol=1e-6, rtol=1e-5)


def test_thresholds_follow_the_noise_as_in_the_paper():
    power, c = alphas_cumprod(), 0.1
    sigma = ((1 - power) / power).sqrt()
    expected = {
        "constant": torch.full((1000,), c),
        "snr": (1 - c) / (1 + sigma) ** 2 + c,
        "exponential": torch.exp(-(-math.log(c) / 1000) * torch.arange(1000)),
    }
    assert set(expected) == set(THRESHOLDS)
    for name, oracle in expected.items():
        table = threshold_table(settings(loss="huber", huber_schedule=name), power)
        torch.testing.assert_close(table, oracle, atol=1e-6, rtol=1e-5)
    assert threshold_table(settings(), power) is None
    rescaled = threshold_table(settings(loss="huber"), alphas_cumprod(True))
    assert rescaled[-1] == pytest.approx(c)


# ----------------------------------------------------------------------------- the whole step


class Plain:
    """One training step from the libraries alone: nothing of our loop, cache or objective."""

    def __init__(self, plan, adapter, indices, models, noise, times):
        from peft import LoraConfig

        from training.buckets import place_image

        self.unet = copy.deepcopy(models["unet"])
        rank, alpha = plan.job.adapter.rank, plan.job.alpha
        self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=adapter.names))
        own = {
            f"{n}.{s}.default.weight": w.detach()
            for n, pair in adapter.pairs()
            for s, w in (("lora_A", pair.down), ("lora_B", pair.up))
        }
        missing, unexpected = self.unet.load_state_dict(own, strict=False)
        assert not unexpected and not any("lora" in key for key in missing)
        places = [plan.placements[i] for i in indices]
        with torch.no_grad():
            pixels = torch.stack([place_image(p) for p in places])
            latents = models["vae"].encode(pixels).latents * 0.13025
            context, pooled = plain_text(plan, [p.item.caption for p in places], models)
        oracle = scheduler(prediction_type=plan.prediction)
        ids = []
        for p in places:
            (w, h), (left, top), (tw, th) = p.original_size, p.crop_left_top, p.bucket_size
            ids.append([h, w, top, left, th, tw])
        self.predicted = self.unet(
            oracle.add_noise(latents, noise, times),
            times,
            encoder_hidden_states=context,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": torch.tensor(ids)},
        ).sample
        self.target, self.times = noise, times
        if plan.prediction == "v_prediction":
            self.target = oracle.get_velocity(latents, noise, times)

    def loss(self, weighting: str, loss: str, prediction: str) -> torch.Tensor:
        """As scripts write it: elementwise loss, mean per picture, weight, mean."""
        error = self.predicted - self.target
        power = scheduler().alphas_cumprod
        sigma = ((1 - power) / power).sqrt()[self.times].view(-1, 1, 1, 1)
        c = (1 - 0.1) / (1 + sigma) ** 2 + 0.1
        root = (error**2 + c**2).sqrt()
        huber = torch.where(error.abs() < c, error**2 / 2, c * (error.abs() - c / 2))
        value = {
            "mse": lambda: error**2,
            "mae": lambda: error.abs(),
            "huber": lambda: 2 * huber,
            "smooth_l1": lambda: 2 * huber / c,
            "pseudo_huber": lambda: 2 * c * (root - c),
            "pseudo_smooth_l1": lambda: 2 * (root - c),
        }[loss]()
        weights = diffusers_weights(weighting, prediction)[self.times]
        return (value.mean(dim=(1, 2, 3)) * weights).mean()

    def gradients(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        self.unet.zero_grad()
        loss.backward(retain_graph=True)
        return {n: p.grad for n, p in self.unet.named_parameters() if p.grad is not None}


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


def awake(adapter) -> None:
    """Ups that are not zero: a fresh LoRA has no gradient on its down matrices."""
    with torch.no_grad():
        for i, (_, pair) in enumerate(adapter.pairs()):
            pair.up.normal_(std=0.02, generator=torch.Generator().manual_seed(i))


def noise_and_times(plan, count: int, size: tuple[int, int]):
    from training.rng import generator

    random = generator(plan.job.seed, "noise", 0)
    noise = torch.randn((count, 4, size[1] // 8, size[0] // 8), generator=random)
    return noise, torch.randint(0, 1000, (count,), generator=random)


def assert_same_gradients(adapter, oracle: dict[str, torch.Tensor], case) -> None:
    for name, pair in adapter.pairs():
        for side, value in (("lora_A", pair.down.grad), ("lora_B", pair.up.grad)):
            expected = oracle[f"{name}.{side}.default.weight"]
            assert expected.abs().max() > 0, case
            torch.testing.assert_close(
                value, expected, atol=1e-6, rtol=1e-4, msg=lambda m: f"{case}: {m}"
            )


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
    awake(adapter)
    indices = plan.sampler.batch(0)
    _, loss = loop._loss(indices, 0)
    loss.backward()
    size = plan.placements[indices[0]].bucket_size
    drawn = noise_and_times(plan, len(indices), size)
    plain = Plain(plan, adapter, indices, tiny_models, *drawn)
    expected = plain.loss("none", "mse", plan.prediction)
    torch.testing.assert_close(loss.detach(), expected.detach(), atol=1e-6, rtol=1e-6)
    assert_same_gradients(adapter, plain.gradients(expected), changes)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_weighting_and_loss_has_the_plain_gradient(prediction, make_loop, tiny_models):
    plan, adapter, data, _ = make_loop(
        {"objective": {"prediction": prediction}, "batch": {"size": 2}, "buckets": {"step": 64}}
    )
    awake(adapter)
    indices = next(b for b in map(plan.sampler.batch, range(3)) if len(b) == 2)
    batch = data.batch(indices)
    noise, _ = noise_and_times(plan, 2, plan.placements[indices[0]].bucket_size)
    times = torch.tensor([60, 700])  # on both sides of min-SNR's edge
    plain = Plain(plan, adapter, indices, tiny_models, noise, times)
    for weighting in WEIGHTINGS:
        for loss in LOSSES:
            objective = Objective(settings(weighting=weighting, loss=loss), prediction)
            ours = objective.losses(adapter.unet, batch, Draw(noise, times), plan.dtype).mean()
            adapter.unet.zero_grad()
            ours.backward()
            expected = plain.loss(weighting, loss, prediction)
            torch.testing.assert_close(ours.detach(), expected.detach(), atol=1e-6, rtol=1e-5)
            assert_same_gradients(adapter, plain.gradients(expected), (weighting, loss))


@pytest.mark.parametrize("loss", ["mse", "pseudo_huber"])
def test_a_batch_costs_what_its_pictures_cost_alone(loss, make_loop):
    plan, adapter, data, _ = make_loop({"buckets": {"step": 16}})
    awake(adapter)
    chosen = settings(loss=loss, weighting="min_snr", noise_offset=0.1, multires_levels=3)
    objective = Objective(chosen, "epsilon")
    sizes = {p.bucket_size: i for i, p in enumerate(plan.placements)}
    assert len(sizes) == 3  # three shapes: mixed resolutions are batches of one after another
    for index in sizes.values():
        batch = data.batch([index, index, index])
        draw = objective.draw(batch.latents, torch.Generator().manual_seed(index))
        with torch.no_grad():
            together = objective.losses(adapter.unet, batch, draw, torch.float32)
            for i in range(3):
                own = Draw(draw.noise[i : i + 1], draw.timesteps[i : i + 1])
                alone = objective.losses(adapter.unet, data.batch([index]), own, torch.float32)
                torch.testing.assert_close(alone[0], together[i], atol=1e-6, rtol=1e-5)
    assert len(set(together.tolist())) == 3


def test_masks_and_weights_count_as_in_a_plain_loss(make_loop, tiny_models):
    plan, adapter, data, _ = make_loop({"batch": {"size": 2}, "buckets": {"step": 64}})
    awake(adapter)
    indices = next(b for b in map(plan.sampler.batch, range(3)) if len(b) == 2)
    noise, _ = noise_and_times(plan, 2, plan.placements[indices[0]].bucket_size)
    times = torch.tensor([60, 700])
    mask = torch.rand((2, 1, *noise.shape[2:]), generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.5, 2.0])
    batch = replace(data.batch(indices), mask=mask, weights=weights)
    objective = Objective(settings(weighting="min_snr"), "epsilon")
    ours = objective.losses(adapter.unet, batch, Draw(noise, times), plan.dtype)
    ours.mean().backward()
    plain = Plain(plan, adapter, indices, tiny_models, noise, times)
    error = ((plain.predicted - plain.target).square() * mask).mean(dim=(1, 2, 3))
    expected = error * weights * diffusers_weights("min_snr", "epsilon")[times]
    torch.testing.assert_close(ours.detach(), expected.detach(), atol=1e-6, rtol=1e-5)
    assert_same_gradients(adapter, plain.gradients(expected.mean()), "mask and weights")
    with torch.no_grad():
        for i, index in enumerate(indices):
            one = slice(i, i + 1)
            alone = replace(data.batch([index]), mask=mask[one], weights=weights[one])
            loss = objective.losses(adapter.unet, alone, Draw(noise[one], times[one]), plan.dtype)
            torch.testing.assert_close(loss[0], ours[i], atol=1e-6, rtol=1e-5)
