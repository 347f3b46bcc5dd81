"""Stage 5: the UNet, with SDXL's conditioning, and the openpose ControlNet beside it.

Both learn from the start: the first part of every batch is drawn with its skeleton, the rest
without. A ControlNet added to a finished UNet would be the usual order, but where a few hundred
thousand pictures are all there is, knowing the pose makes everything else quicker to learn.
"""

import torch
import torch.nn.functional as F
from torch import nn

from miniature import modules

from ..world import Draws
from .config import CONFIG
from .controlnet import build_narrow, control_picture, hint, region_masks
from .diffusion import (
    attention_to,
    captions,
    conditioning,
    load_text,
    noised,
    scheduler,
    text_batch,
    weighted_loss,
)
from .latents import LatentSet, file_size, plans_of
from .loop import Plan, arguments, run_stage

PLAN = Plan(steps=4_900, learning_rate=1e-3, warmup=100, weight_decay=0.01, final=0.4, muon=True)
POSED = 0.75  # share of samples with a skeleton
SILENT = 0.5  # share of these whose caption says nothing about the pose
HELD_BACK = 0.4  # share of these where the skeleton counts less away from the person


class UnetStage:
    name = "unet"

    def __init__(self, args, device: torch.device):
        self.size = args.batch or 32
        self.seed = args.seed
        self.data = LatentSet()
        self.texts = load_text(device)
        self.noise_schedule = scheduler()
        self.trained = nn.ModuleDict(
            {"unet": modules.build_unet(CONFIG), "controlnet": build_narrow(CONFIG)}
        )

    def batch(self, step: int):
        draws = Draws(8, self.seed, step)
        number, rows = self.data.draw(draws, self.size)
        plans, size = plans_of(number, rows), file_size(number)
        posed = round(POSED * self.size)
        controls = torch.stack([control_picture(plan.pose, size) for plan in plans[:posed]])
        leave_out = [
            ("action",) if i < posed and draws.chance(SILENT) else () for i in range(self.size)
        ]
        shown = ("person", "head", "outfit")
        masks = torch.stack([region_masks(plan.pose, size, shown) for plan in plans])
        reach = torch.stack([_reach(person, draws) for person in masks[:posed, 0]])
        texts = [text for text, _ in captions(plans, draws, leave_out)]
        return {
            "latents": self.data.latents(number, rows), "controls": controls, "reach": reach,
            "attention": attention_to(masks[:, 1], masks[:, 2]),
            **text_batch(texts, size, draws),
        }  # fmt: skip

    def loss(self, batch, generator):
        given = conditioning(self.texts, batch["ids"], batch["time_ids"])
        noisy, noise, steps = noised(self.noise_schedule, batch["latents"], generator)
        posed = len(batch["controls"])
        down, middle = self.trained["controlnet"](
            noisy[:posed], steps[:posed], controlnet_cond=hint(batch["controls"]),
            return_dict=False, **first(given, posed),
        )  # fmt: skip
        down, middle = [
            [_padded(d * F.adaptive_avg_pool2d(batch["reach"], d.shape[-2:]), len(noisy))
             for d in residuals]
            for residuals in (down, [middle])
        ]  # fmt: skip
        predicted = self.trained["unet"](
            noisy, steps, down_block_additional_residuals=down,
            mid_block_additional_residual=middle[0], **given,
        ).sample  # fmt: skip
        return weighted_loss(self.noise_schedule, predicted, noise, steps, batch["attention"])


def _reach(person: torch.Tensor, draws: Draws) -> torch.Tensor:
    """(1, h, w) at latent size: how strongly the skeleton acts there, as in the pack's scenes."""
    if not draws.chance(HELD_BACK):
        return torch.ones_like(person)[None]
    outside = draws.between(0.15, 0.7)
    return (outside + (1 - outside) * person)[None]


def first(given: dict, count: int) -> dict:
    """The conditioning of the first samples of a batch."""
    return {
        name: first(value, count) if isinstance(value, dict) else value[:count]
        for name, value in given.items()
    }


def _padded(residual: torch.Tensor, count: int) -> torch.Tensor:
    missing = count - len(residual)
    return torch.cat([residual, residual.new_zeros(missing, *residual.shape[1:])])


def main() -> None:
    parser = arguments("Train the UNet and its ControlNet.")
    run_stage(UnetStage, PLAN, parser.parse_args())


if __name__ == "__main__":
    main()
