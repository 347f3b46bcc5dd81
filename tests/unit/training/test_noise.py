"""Noise and timesteps: distributions against theory, reproducible, per picture."""

import math

import pytest
import torch
from scipy import stats

from training import JobError, parse_job
from training.objective import Objective
from training.timesteps import TIMESTEPS, draw_timesteps


def settings(**values):
    job = {"base": {"checkpoint": "-"}, "dataset": {"folder": "-"}, "objective": values}
    return parse_job(job).objective


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(latents=None, **values):
    latents = torch.zeros(64, 4, 16, 16) if latents is None else latents
    return Objective(settings(**values)).draw(latents, random())


def test_plain_noise_is_what_it_always_was():
    drawn, again = draw(), random()
    assert torch.equal(drawn.noise, torch.randn((64, 4, 16, 16), generator=again))
    assert torch.equal(drawn.timesteps, torch.randint(0, 1000, (64,), generator=again))
    assert drawn.added is None


def test_offset_shifts_whole_planes():
    plain, shifted = draw().noise, draw(noise_offset=0.5).noise
    shift = (shifted - plain).mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(shifted - plain, shift.expand_as(plain), atol=1e-5, rtol=0)
    assert stats.kstest(shift.flatten() / 0.5, "norm").pvalue > 0.01


def test_multires_noise_is_unit_noise_with_coarse_parts():
    noise = draw(multires_levels=6, multires_discount=0.6).noise
    torch.testing.assert_close(noise.std(dim=(1, 2, 3)), torch.ones(64), atol=1e-4, rtol=0)
    planes = noise.mean(dim=(2, 3)).std()
    assert planes > 3 * draw().noise.mean(dim=(2, 3)).std()
    # level 0 is white noise once more: alone it only changes the scale
    flat = draw(multires_levels=1).noise
    torch.testing.assert_close(flat, draw().noise / draw().noise.std(dim=(1, 2, 3), keepdim=True))
    # a level weighs its discount: with ratio r near 2..4 the coarse variance is at most 1/3 here
    one = draw(multires_levels=2, multires_discount=1.0).noise
    neighbours = (one[..., 1:] * one[..., :-1]).mean()
    assert 0.1 < neighbours < 1 / 3


def test_perturbed_noise_is_added_and_plain_noise_is_the_target():
    drawn = draw(input_perturbation=0.1)
    assert torch.equal(drawn.noise, draw().noise)
    further = (drawn.added - drawn.noise).flatten() / 0.1
    assert stats.kstest(further[:4000], "norm").pvalue > 0.01
    seen = []

    class Unet(torch.nn.Module):
        def forward(self, noisy, *_, **__):
            seen.append(noisy)
            return (drawn.noise,)

    from training.objective import Batch

    latents = torch.randn(64, 4, 16, 16)
    batch = Batch(latents, torch.zeros(64, 1, 1), torch.zeros(64, 1), torch.zeros(64, 6))
    objective = Objective(settings(input_perturbation=0.1))
    assert objective.losses(Unet(), batch, drawn, torch.float32).abs().max() == 0
    assert torch.equal(seen[0], objective.noisy(latents, drawn.added, drawn.timesteps))


def test_strengths_may_be_drawn_for_each_picture():
    plain = draw().noise
    shift = (draw(noise_offset=0.5).noise - plain)[:, :, :1, :1]
    drawn = (draw(noise_offset=0.5, noise_random_strength=True).noise - plain)[:, :, :1, :1]
    strengths = (drawn / shift)[:, :, 0, 0]
    assert (strengths - strengths[:, :1]).abs().max() < 1e-3  # one for all planes of a picture
    assert stats.kstest(strengths[:, 0], "uniform").pvalue > 0.01
    some = draw(input_perturbation=0.1, noise_random_strength=True)
    size = (some.added - some.noise).std(dim=(1, 2, 3)) / 0.1
    assert size.min() < 0.2 and 0.8 < size.max() < 1.1


def test_extras_do_not_change_the_timesteps():
    times = draw().timesteps
    for extra in ({"noise_offset": 0.1}, {"multires_levels": 4}, {"input_perturbation": 0.1}):
        assert torch.equal(draw(**extra).timesteps, times)


def share_at_most(name: str, place: float, values) -> float:
    """The cumulative distribution of a timestep's place in [0, 1], from the papers."""
    if name == "uniform":
        return place
    if name == "logit_normal":
        logit = math.log(place / (1 - place)) if 0 < place < 1 else math.inf * (place - 0.5)
        return stats.norm.cdf((logit - values.timestep_mean) / values.timestep_spread)
    if name == "cosmap":  # density 2 / (pi - 2 pi t + 2 pi t^2)
        return 0.5 + math.atan(2 * place - 1) * 2 / math.pi
    if name == "content":
        return 1 - (1 - place) ** (1 / 3)
    return place ** (1 / 3)


@pytest.mark.parametrize("name", [n for n in TIMESTEPS if n != "mode"])
def test_timesteps_are_distributed_as_the_papers_say(name):
    values = settings(timestep_kind=name, timestep_mean=0.5, timestep_spread=0.8)
    times = draw_timesteps(values, 4000, random(1))
    assert times.dtype == torch.int64 and 0 <= times.min() and times.max() <= 999
    edges = torch.arange(1, 1000)
    seen = torch.searchsorted(times.sort().values, edges) / 4000.0
    expected = torch.tensor([share_at_most(name, float(e) / 1000, values) for e in edges])
    # Kolmogorov and Smirnov's bound for 4000 numbers, which one honest draw in 100 exceeds
    assert (seen - expected).abs().max() < 1.63 / math.sqrt(4000)


def test_mode_keeps_its_ends_and_its_scale():
    flat = draw_timesteps(settings(timestep_kind="mode", timestep_mode_scale=0), 9, random())
    u = torch.rand(9, generator=random(), dtype=torch.float64)
    assert torch.equal(flat, ((1 - u) * 1000).long())
    times = draw_timesteps(settings(timestep_kind="mode"), 4000, random()) / 1000
    middle = float(((times > 0.25) & (times < 0.75)).float().mean())
    assert middle > 0.6 and times.min() < 0.02 and times.max() > 0.98


@pytest.mark.parametrize("name", TIMESTEPS)
def test_timesteps_fill_their_range(name):
    values = settings(timestep_kind=name, timestep_min=200, timestep_max=203)
    assert set(draw_timesteps(values, 300, random()).tolist()) == {200, 201, 202}


@pytest.mark.parametrize("name", TIMESTEPS)
def test_strata_spread_a_batch(name):
    values = settings(timestep_kind=name, timestep_strata=True)
    orders = []
    for seed in range(20):
        times = draw_timesteps(values, 8, random(seed))
        quantiles = TIMESTEPS[name].quantile(
            torch.linspace(0, 1, 9, dtype=torch.float64).clamp(1e-12, 1 - 1e-12), values
        )
        edges = (quantiles * 1000).sort().values
        found = torch.bucketize(times.double() + 0.5, edges) - 1
        assert sorted(found.clamp(0, 7).tolist()) == list(range(8)), times
        orders.append(tuple(found.tolist()))
    assert len(set(orders)) > 15


def test_bounds_are_checked():
    with pytest.raises(JobError, match="timestep_min"):
        settings(timestep_min=500, timestep_max=400)
    with pytest.raises(JobError, match="objective.loss"):
        settings(loss="hubert")
