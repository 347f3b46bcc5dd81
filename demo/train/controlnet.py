"""Stage 5: the openpose ControlNet. The UNet is frozen; control pictures are the pack's own."""

import torch
from torch import nn

from conditioning.pose import Person, PoseFrame, draw_pose

from .. import modules
from ..world import Draws, Pose
from .config import CONFIG
from .diffusion import (
    conditioning,
    load_frozen,
    load_text,
    noised,
    scheduler,
    text_batch,
    weighted_loss,
)
from .latents import LatentSet
from .loop import Plan, arguments, run_stage

PLAN = Plan(steps=40_000, learning_rate=3e-4, warmup=300, average=0.999)


def control_picture(pose: Pose, size: tuple[int, int]) -> torch.Tensor:
    """(3, H, W) uint8: the skeleton as the pack draws it for a picture of (width, height)."""
    frame = PoseFrame((Person(pose.keypoints(size)),), *size)
    return torch.from_numpy(draw_pose(frame)).permute(2, 0, 1)


class ControlNetStage:
    name = "controlnet"

    def __init__(self, args, device: torch.device):
        from diffusers import ControlNetModel

        self.size = args.batch or 32
        self.seed = args.seed
        self.data = LatentSet()
        self.texts = load_text(device)
        self.noise_schedule = scheduler()
        self.unet = load_frozen("unet", "unet", modules.build_unet, device)
        hint = modules.build_controlnet(CONFIG).config.conditioning_embedding_out_channels
        net = ControlNetModel.from_unet(self.unet, conditioning_embedding_out_channels=hint)
        self.trained = nn.ModuleDict({"controlnet": net.requires_grad_(True)})

    def batch(self, step: int):
        draws = Draws(9, self.seed, step)
        latents, plans, size = self.data.pick(draws, self.size)
        # Poses must come from the skeleton: half of the captions keep quiet about them.
        leave_out = [("action",) if draws.chance(0.5) else () for _ in plans]
        controls = torch.stack([control_picture(plan.pose, size) for plan in plans])
        return {
            "latents": latents, "controls": controls, **text_batch(plans, size, draws, leave_out),
        }  # fmt: skip

    def loss(self, batch, generator):
        given = conditioning(self.texts, batch)
        noisy, noise, steps = noised(self.noise_schedule, batch["latents"], generator)
        down, middle = self.trained["controlnet"](
            noisy, steps, controlnet_cond=batch["controls"].float() / 255, return_dict=False,
            **given,
        )  # fmt: skip
        predicted = self.unet(
            noisy, steps, down_block_additional_residuals=down,
            mid_block_additional_residual=middle, **given,
        ).sample  # fmt: skip
        return weighted_loss(self.noise_schedule, predicted, noise, steps)


def main() -> None:
    run_stage(ControlNetStage, PLAN, arguments("Train the openpose ControlNet.").parse_args())


if __name__ == "__main__":
    main()
