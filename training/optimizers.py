"""Optimizers of our own: whole lists of weights at once, and no question to the device in a step.

Their libraries either ask the device for numbers for every single matrix (Prodigy), or are one
more package for a few lines (Lion, Schedule-Free). The tests hold them against those libraries.
"""

import math
from collections.abc import Callable

import torch

Tensors = list[torch.Tensor]


class _Optimizer(torch.optim.Optimizer):
    """`update(group, weights, gradients)` for every group; no closures, which nothing here uses."""

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self.update(group, weights, [p.grad for p in weights])

    def memory(self, weights: Tensors, key: str, start: Callable = torch.zeros_like) -> Tensors:
        """A tensor per weight that lasts from step to step."""
        for p in weights:
            if key not in self.state[p]:
                self.state[p][key] = start(p)
        return [self.state[p][key] for p in weights]


class Lion(_Optimizer):
    """Evolved sign momentum (arXiv 2302.06675, algorithm 2)."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def update(self, group: dict, weights: Tensors, gradients: Tensors) -> None:
        beta1, beta2 = group["betas"]
        means = self.memory(weights, "exp_avg")
        signs = torch._foreach_lerp(means, gradients, 1.0 - beta1)
        torch._foreach_sign_(signs)
        torch._foreach_mul_(weights, 1.0 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, signs, alpha=-group["lr"])
        torch._foreach_lerp_(means, gradients, 1.0 - beta2)


class AdamWScheduleFree(_Optimizer):
    """Schedule-Free AdamW (arXiv 2405.15682, algorithm 1).

    Weights are y, where gradients are taken, while training; after `eval()` they are x, the
    averaged weights to use. z, the plain iterate, is kept beside them.
    """

    def __init__(
        self,
        params,
        lr=0.0025,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        r=0.0,
        weight_lr_power=2.0,
    ):
        own = {"r": r, "weight_lr_power": weight_lr_power, "k": 0, "weight_sum": 0.0, "lr_max": 0.0}
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, **own}
        if betas[0] <= 0:
            raise ValueError("Schedule-Free needs a beta1 above 0")
        super().__init__(params, {**defaults, "train_mode": True})

    @torch.no_grad()
    def _switch(self, training: bool, weight: Callable[[float], float]) -> None:
        for group in self.param_groups:
            if group["train_mode"] != training:
                for p in group["params"]:
                    if "z" in self.state[p]:
                        p.lerp_(self.state[p]["z"], weight(group["betas"][0]))
                group["train_mode"] = training

    def eval(self) -> None:
        """Turn y into x."""
        self._switch(False, lambda beta1: 1.0 - 1.0 / beta1)

    def train(self) -> None:
        """Turn x into y."""
        self._switch(True, lambda beta1: 1.0 - beta1)

    def update(self, group: dict, weights: Tensors, gradients: Tensors) -> None:
        if not group["train_mode"]:
            raise RuntimeError("call train() before a step")
        lr, (beta1, beta2) = group["lr"], group["betas"]
        group["k"] += 1
        group["lr_max"] = max(lr, group["lr_max"])
        share = group["k"] ** group["r"] * group["lr_max"] ** group["weight_lr_power"]
        group["weight_sum"] += share
        share = share / group["weight_sum"] if group["weight_sum"] else 0.0
        z = self.memory(weights, "z", torch.clone)
        squares = self.memory(weights, "exp_avg_sq")
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1.0 - beta2)
        divisors = torch._foreach_div(squares, 1.0 - beta2 ** group["k"])
        torch._foreach_sqrt_(divisors)
        torch._foreach_add_(divisors, group["eps"])
        steps = torch._foreach_div(gradients, divisors)
        if group["weight_decay"]:
            torch._foreach_add_(steps, weights, alpha=group["weight_decay"])
        torch._foreach_lerp_(weights, z, share)
        torch._foreach_add_(weights, steps, alpha=lr * (beta1 * (1.0 - share) - 1.0))
        torch._foreach_sub_(z, steps, alpha=lr)


class Prodigy(torch.optim.Optimizer):
    """Prodigy in its Adam form (arXiv 2306.06101, algorithm 4).

    Its estimate d of the distance to the solution lives on the device, in double precision where
    there is one, so that finding the rate costs no wait. Groups may have rates of their own; they
    share one d.
    """

    def __init__(
        self,
        params,
        lr=1.0,
        betas=(0.9, 0.999),
        beta3=None,
        eps=1e-8,
        weight_decay=0.0,
        use_bias_correction=False,
        safeguard_warmup=False,
        d0=1e-6,
        d_coef=1.0,
        growth_rate=math.inf,
    ):
        defaults = {"lr": lr, "betas": betas, "beta3": beta3, "eps": eps, "d0": d0, "k": 0}
        defaults |= {"weight_decay": weight_decay, "d_coef": d_coef, "growth_rate": growth_rate}
        defaults |= {"use_bias_correction": use_bias_correction}
        super().__init__(params, {**defaults, "safeguard_warmup": safeguard_warmup})
        first = self.param_groups[0]
        device = first["params"][0].device
        self._exact = torch.float32 if device.type == "mps" else torch.float64
        number = {"dtype": self._exact, "device": device}
        first["d"] = torch.tensor(d0, **number)
        first["d_max"] = torch.tensor(d0, **number)
        first["d_numerator"] = torch.tensor(0.0, **number)

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        first = self.param_groups[0]
        beta2 = first["betas"][1]
        beta3 = math.sqrt(beta2) if first["beta3"] is None else first["beta3"]
        d, numerator = first["d"], first["d_numerator"] * beta3
        denominator = torch.zeros_like(d)
        work = []
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                dlr = d * (group["lr"] * self._correction(first))
                more, size = self._remember(group, weights, d, dlr, beta3)
                numerator, denominator = numerator + more, denominator + size
                work.append((group, weights, dlr))
        self._estimate(first, numerator, denominator)
        for group, weights, dlr in work:
            self._move(group, weights, first["d"], dlr)
        first["k"] += 1

    @staticmethod
    def _correction(group: dict) -> float:
        if not group["use_bias_correction"]:
            return 1.0
        (beta1, beta2), count = group["betas"], group["k"] + 1
        return math.sqrt(1.0 - beta2**count) / (1.0 - beta1**count)

    def _remember(self, group, weights, d, dlr, beta3) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the gradients in; returns what they add to d's numerator and denominator."""
        for p in weights:
            if not self.state[p]:
                self.state[p].update(
                    p0=p.detach().clone(),
                    s=torch.zeros_like(p),
                    exp_avg=torch.zeros_like(p),
                    exp_avg_sq=torch.zeros_like(p),
                )
        kept = {k: [self.state[p][k] for p in weights] for k in self.state[weights[0]]}
        gradients, (beta1, beta2) = [p.grad for p in weights], group["betas"]
        scaled = torch._foreach_mul(gradients, d.to(gradients[0].dtype))
        torch._foreach_mul_(kept["exp_avg"], beta1)
        torch._foreach_add_(kept["exp_avg"], scaled, alpha=1.0 - beta1)
        torch._foreach_mul_(kept["exp_avg_sq"], beta2)
        torch._foreach_addcmul_(kept["exp_avg_sq"], scaled, scaled, value=1.0 - beta2)
        growth = (d if group["safeguard_warmup"] else dlr) * (d / group["d0"])
        torch._foreach_mul_(kept["s"], beta3)
        grown = torch._foreach_mul(gradients, growth.to(gradients[0].dtype))
        torch._foreach_add_(kept["s"], grown)
        moved = torch._foreach_sub(kept["p0"], weights)
        dots = [torch.dot(g.flatten(), m.flatten()) for g, m in zip(gradients, moved, strict=True)]
        sizes = torch._foreach_norm(kept["s"], 1)
        added = torch.stack(dots).to(self._exact).sum() * (d / group["d0"]) * dlr
        return added, torch.stack(sizes).to(self._exact).sum()

    @staticmethod
    def _estimate(first: dict, numerator: torch.Tensor, denominator: torch.Tensor) -> None:
        d, d0 = first["d"], first["d0"]
        # no gradient at all yet: nothing is known, d stays
        found = torch.where(denominator > 0, first["d_coef"] * numerator / denominator, d)
        d = torch.where(d == d0, torch.maximum(d, found), d)
        first["d_max"] = torch.maximum(first["d_max"], found)
        first["d"] = torch.minimum(first["d_max"], d * first["growth_rate"])
        first["d_numerator"] = numerator

    def _move(self, group: dict, weights: Tensors, d: torch.Tensor, dlr: torch.Tensor) -> None:
        kind = weights[0].dtype
        divisors = torch._foreach_sqrt([self.state[p]["exp_avg_sq"] for p in weights])
        torch._foreach_add_(divisors, (d * group["eps"]).to(kind))
        steps = torch._foreach_div([self.state[p]["exp_avg"] for p in weights], divisors)
        torch._foreach_mul_(steps, dlr.to(kind))
        if group["weight_decay"]:
            # not times 1 - a: near the start a is smaller than what float32 can take from 1
            decay = (dlr * group["weight_decay"]).to(kind)
            torch._foreach_sub_(weights, torch._foreach_mul(weights, decay))
        torch._foreach_sub_(weights, steps)
