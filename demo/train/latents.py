"""Stage 3: encode training pictures once, since encoding costs more than a training step.

Files of 2048 samples each; one file in six is wide (3:2), so that films need not be square. Only
latents are kept: scene, pose and captions follow from the sample's seed in no time.
"""

import os
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..world import Draws, Plan, draw_sample, plan_sample
from .config import SIZE_PX
from .loop import arguments
from .narrow import NarrowVae
from .runs import Run, TrainingError, load_weights

PER_FILE = 2048
FILES = 24
WIDE_EVERY = 6


def file_size(index: int) -> tuple[int, int]:
    """(width, height) in pixels of the pictures in file `index`."""
    wide = index % WIDE_EVERY == WIDE_EVERY - 1
    return (SIZE_PX * 3 // 2, SIZE_PX) if wide else (SIZE_PX, SIZE_PX)


def load_vae(device: torch.device):
    """The finished autoencoder, frozen."""
    vae = NarrowVae()
    vae.load_state_dict(load_weights("vae", "vae"))
    return vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def encode(vae, pictures: list, device: torch.device) -> torch.Tensor:
    """uint8 (H, W, 3) pictures -> latents (B, 4, H / 8, W / 8) on the CPU."""
    pixels = torch.stack([torch.from_numpy(p) for p in pictures]).to(device)
    pixels = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        return vae.encode(pixels.contiguous(memory_format=torch.channels_last)).cpu()


class LatentSet:
    """The encoded training set, in memory as float16."""

    def __init__(self):
        self._files = []
        for path in sorted(Run("latents").folder.glob("part-*.safetensors")):
            with safe_open(path, "pt") as file:
                self._files.append((int(path.stem[5:]), file.get_tensor("latents")))
        if not self._files:
            raise TrainingError("There are no latents yet: run python -m demo.train.latents")

    def __len__(self) -> int:
        return sum(len(latents) for _, latents in self._files)

    def pick(self, draws: Draws, count: int) -> tuple[torch.Tensor, list[Plan], tuple[int, int]]:
        """`count` samples of one size: latents (B, 4, h, w), their plans, (width, height)."""
        number, latents = draws.pick(self._files)
        width, height = file_size(number)
        rows = [draws.below(len(latents)) for _ in range(count)]
        plans = [plan_sample(number * PER_FILE + row, width / height) for row in rows]
        return latents[rows].float(), plans, (width, height)


def _write(path: Path, latents: torch.Tensor) -> None:
    part = path.with_name(f"{path.name}.part")
    save_file({"latents": latents.half().contiguous()}, part)
    os.replace(part, path)


def main() -> None:
    parser = arguments("Encode the training pictures.")
    parser.add_argument("--files", type=int, default=FILES, help=f"files of {PER_FILE} samples")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    vae, run = load_vae(device), Run("latents")
    end = time.monotonic() + 60 * args.minutes
    for index in range(args.files):
        path = run.folder / f"part-{index:03d}.safetensors"
        if path.is_file():
            continue
        started, chunks = time.monotonic(), []
        for first in range(0, PER_FILE, 64):
            seeds = range(index * PER_FILE + first, index * PER_FILE + first + 64)
            pictures = [draw_sample(seed, file_size(index)).rendered.picture for seed in seeds]
            chunks.append(encode(vae, pictures, device))
            if time.monotonic() > end:
                print(f"latents: {index} files; file {index} starts anew next time", flush=True)
                return
        latents = torch.cat(chunks)
        _write(path, latents)
        speed = PER_FILE / (time.monotonic() - started)
        mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
        run.log(file=index, pictures_per_s=round(speed, 1), mean=mean.tolist(),
                deviation=deviation.tolist())  # fmt: skip
        print(f"latents: file {index} {speed:.1f} pictures/s mean {mean.tolist()} "
              f"deviation {deviation.tolist()}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
