"""Stage 4: the UNet, with SDXL's conditioning (text states, pooled text, time ids)."""

import torch
from torch import nn

from .. import modules
from ..world import Draws
from .config import CONFIG
from .diffusion import conditioning, load_text, noised, scheduler, text_batch, weighted_loss
from .latents import LatentSet
from .loop import Plan, arguments, run_stage

PLAN = Plan(steps=100_000, learning_rate=5e-4, warmup=500, weight_decay=0.01, average=0.9995)


class UnetStage:
    name = "unet"

    def __init__(self, args, device: torch.device):
        self.size = args.batch or 48
        self.seed = args.seed
        self.data = LatentSet()
        self.texts = load_text(device)
        self.noise_schedule = scheduler()
        self.trained = nn.ModuleDict({"unet": modules.build_unet(CONFIG)})

    def batch(self, step: int):
        draws = Draws(8, self.seed, step)
        latents, plans, size = self.data.pick(draws, self.size)
        return {"latents": latents, **text_batch(plans, size, draws)}

    def loss(self, batch, generator):
        given = conditioning(self.texts, batch)
        noisy, noise, steps = noised(self.noise_schedule, batch["latents"], generator)
        predicted = self.trained["unet"](noisy, steps, **given).sample
        return weighted_loss(self.noise_schedule, predicted, noise, steps)


def main() -> None:
    run_stage(UnetStage, PLAN, arguments("Train the UNet.").parse_args())


if __name__ == "__main__":
    main()
