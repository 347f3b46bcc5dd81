"""Samples with the trained models and lets the world's readers say what came true.

`python -m demo.train.evaluate --count 32 [--references character,attire,background]` uses whatever
stages have finished: the UNet alone, with ControlNet, with references. Scenes and poses are from
the held-out split. Writes a contact sheet and a line of figures beside the training files.
"""

import argparse
import time
from collections import Counter

import numpy as np
import torch

from conditioning import ROLES
from miniature import modules

from ..roles import PICTURES, REGIONS, ROLE_NAMES, SAYS
from ..world import Draws, Plan, caption, plan_sample, reference_picture, render
from ..world.readers import compare, iou, read_background, read_person
from .clip import encode_pictures, encode_text
from .config import CONFIG, SIZE_PX
from .controlnet import build_narrow, control_picture, hint, region_masks
from .diffusion import load_frozen, load_text, time_ids
from .ip_adapter import IpAdapterStage, encode_blank, role_layers
from .latents import load_vae
from .runs import Run, load_weights
from .tokens import tokenize


class Sampler:
    """Euler steps with classifier-free guidance, as ComfyUI's euler / normal does them."""

    def __init__(self, device: torch.device, references: bool = False):
        from diffusers import EulerDiscreteScheduler

        self.device = device
        self.texts = load_text(device)
        self.vae = load_vae(device)
        self.adapter = None
        if references:
            args = argparse.Namespace(batch=1, seed=0)
            self.adapter = IpAdapterStage(args, device)
            self.adapter.trained["adapter"].load_state_dict(load_weights("ip_adapter", "adapter"))
            self.adapter.trained.to(device).eval().requires_grad_(False)
            self.unet = self.adapter.unet
        else:
            self.unet = load_frozen("unet", "unet", modules.build_unet, device)
        self.controlnet = load_frozen("unet", "controlnet", build_narrow, device)
        self.scheduler = EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            prediction_type="epsilon", timestep_spacing="leading", steps_offset=1,
        )  # fmt: skip

    @torch.inference_mode()
    def __call__(
        self, prompts: list[str], size: tuple[int, int], seed: int, controls=None, told=None,
        steps: int = 20, guidance: float = 4.0,
    ) -> np.ndarray:  # fmt: skip
        """(B, H, W, 3) uint8 pictures of `prompts`.

        Args:
            controls: (B, 3, H, W) uint8 control pictures.
            told: (tokens, masks, layers) of references, positive side then negative side (2 B).
        """
        count = len(prompts)
        ids = tokenize([*prompts, *[""] * count]).to(self.device)
        context, pooled = encode_text(*self.texts, ids)
        given = {
            "encoder_hidden_states": context,
            "added_cond_kwargs": {
                "text_embeds": pooled,
                "time_ids": torch.tensor([time_ids(size)] * (2 * count), device=self.device),
            },
        }
        generator = torch.Generator("cpu").manual_seed(seed)
        latents = torch.randn(count, 4, size[1] // 8, size[0] // 8, generator=generator)
        self.scheduler.set_timesteps(steps)
        latents = latents.to(self.device) * self.scheduler.init_noise_sigma
        if told is not None:
            self.adapter.told.tokens, self.adapter.told.masks, self.adapter.told.layers = told
        for t in self.scheduler.timesteps:
            both = self.scheduler.scale_model_input(torch.cat([latents, latents]), t)
            extra = self._control(both, t, controls, given)
            noise = self.unet(both, t, **given, **extra).sample
            positive, negative = noise.chunk(2)
            noise = negative + guidance * (positive - negative)
            latents = self.scheduler.step(noise, t, latents).prev_sample
        pixels = self.vae.decode(latents).clamp(-1, 1)
        return ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    def _control(self, latents, t, controls, given) -> dict:
        if controls is None:
            return {}
        seen = hint(torch.cat([controls, controls]).to(self.device))
        down, middle = self.controlnet(latents, t, controlnet_cond=seen, return_dict=False, **given)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}

    @torch.inference_mode()
    def tell(self, plans: list[Plan], roles: list[str], size: tuple[int, int], blank: bool = False):
        """What `__call__` takes as `told`: references of `roles`, masked to their regions."""
        adapter, edge = self.adapter, CONFIG.image_size
        draws = Draws(12, plans[0].seed)
        nothing = encode_blank(adapter.vision, self.device)
        states = nothing.expand(len(plans), len(ROLE_NAMES), -1, -1).clone()
        layers = torch.zeros(len(plans), len(ROLE_NAMES), adapter.layer_count)
        alone = tuple(ROLES[name].region_alone for name in ROLE_NAMES)
        regions = REGIONS if "attire" in roles else alone
        masks = torch.stack([region_masks(plan.pose, size, regions) for plan in plans])
        for r, name in enumerate(ROLE_NAMES):
            if name not in roles:
                continue
            pictures = np.stack(
                [reference_picture(PICTURES[name], plan.scene, draws, edge) for plan in plans]
            )
            pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(self.device)
            if not blank:
                states[:, r] = encode_pictures(adapter.vision, pixels)[0]
            layers[:, r] = role_layers(name, adapter.layer_count)
        without = nothing.expand(len(plans), len(ROLE_NAMES), -1, -1)
        both = torch.cat([states, without])
        tokens = adapter.trained["adapter"].image_proj(both.flatten(0, 1))
        tokens = tokens.unflatten(0, both.shape[:2])
        return tokens, torch.cat([masks, masks]), torch.cat([layers, layers]).to(self.device)


def evaluate(args) -> dict:
    device = torch.device(args.device)
    roles = [role for role in args.references.split(",") if role]
    sampler = Sampler(device, references=bool(roles))
    size = (SIZE_PX, SIZE_PX)
    posed = not args.free
    hidden = [item for role in roles for item in SAYS[role]]
    right, total, overlaps, pictures = Counter(), Counter(), [], []
    started = time.monotonic()
    for first in range(0, args.count, args.batch):
        plans = [plan_sample(args.seed + first + i, split="test") for i in range(args.batch)]
        prompts = [caption(p.scene, p.pose.action, leave_out=hidden) for p in plans]
        controls = torch.stack([control_picture(plan.pose, size) for plan in plans])
        told = sampler.tell(plans, roles, size) if roles else None
        made = sampler(prompts, size, args.seed + first, controls if posed else None, told,
                       guidance=args.guidance)  # fmt: skip
        for plan, picture in zip(plans, made, strict=True):
            truth = render(plan.scene, plan.pose, size)
            pictures.append((truth.picture, picture))
            overlaps.append(iou(read_person(picture, plan.scene), truth.mask("person")))
            for name, ok in _judged(picture, plan, posed).items():
                right[name] += ok
                total[name] += 1
    rates = {name: round(right[name] / total[name], 3) for name in total}
    seconds = (time.monotonic() - started) / args.count
    overlap = round(float(np.mean(overlaps)), 3)
    Run("evaluate").log(count=args.count, posed=posed, roles=roles, rates=rates, iou=overlap,
                        seconds_per_picture=round(seconds, 2))  # fmt: skip
    print(f"posed {posed} references {roles} IoU {overlap} {rates} {seconds:.2f} s each")
    _sheet(pictures, f"sheet-{'posed' if posed else 'free'}-{'-'.join(roles) or 'text'}.png")
    return rates


def _judged(picture: np.ndarray, plan: Plan, posed: bool) -> dict[str, bool]:
    if posed:
        return compare(picture, plan.scene, plan.pose).right
    seen = read_background(picture, np.ones(picture.shape[:2], bool))
    wanted = plan.scene.background
    kind = seen.kind == wanted.kind
    return {"place": kind, "tone": kind and seen.tone == wanted.tone}


def _sheet(pairs: list[tuple[np.ndarray, np.ndarray]], name: str) -> None:
    """Truth above picture, eight to a row."""
    from PIL import Image

    columns = [np.concatenate(pair) for pair in pairs]
    while len(columns) % 8:
        columns.append(np.zeros_like(columns[0]))
    rows = [np.concatenate(columns[i : i + 8], axis=1) for i in range(0, len(columns), 8)]
    path = Run("evaluate").folder / name
    Image.fromarray(np.concatenate(rows)).save(path)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the trained models on held-out scenes.")
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--references", default="", help=",".join(ROLE_NAMES))
    parser.add_argument("--free", action="store_true", help="without ControlNet")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    evaluate(parser.parse_args())


if __name__ == "__main__":
    main()
