"""Stage 4: encode training pictures once, since encoding costs more than a training step.

Files of 2048 samples each; one file in six is wide (3:2), so that films need not be square. Only
latents are kept: scene, pose and captions follow from the sample's seed in no time.
"""

import time
from collections.abc import Collection

import torch

from ..world import Draws, Plan, draw_sample, plan_sample
from .config import SIZE_PX
from .loop import arguments, quick
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
    with torch.inference_mode(), quick(device):
        return vae.encode(pixels.contiguous(memory_format=torch.channels_last)).float().cpu()


class LatentSet:
    """The encoded training set, in memory as float16.

    Args:
        only: numbers of the files to use; None for all there are.
    """

    def __init__(self, only: Collection[int] | None = None):
        self._files = {
            number: part["latents"]
            for number, part in Run("latents").parts().items()
            if only is None or number in only
        }
        if not self._files:
            raise TrainingError("There are no latents yet: run python -m demo.train.latents")

    def draw(self, draws: Draws, count: int) -> tuple[int, list[int]]:
        """A file, whose pictures are all of one size, and `count` random rows of it."""
        number = draws.pick(list(self._files))
        return number, [draws.below(len(self._files[number])) for _ in range(count)]

    def latents(self, number: int, rows: list[int]) -> torch.Tensor:
        """(B, 4, h, w) float32."""
        return self._files[number][rows].float()


def plans_of(number: int, rows: list[int]) -> list[Plan]:
    """What the pictures in these rows of file `number` show."""
    width, height = file_size(number)
    return [plan_sample(number * PER_FILE + row, width / height) for row in rows]


def main() -> None:
    parser = arguments("Encode the training pictures.")
    parser.add_argument("--files", type=int, default=FILES, help=f"files of {PER_FILE} samples")
    parser.add_argument("--first", type=int, default=0, help="begin here: two can share the work")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    vae, run = load_vae(device), Run("latents")
    end = time.monotonic() + 60 * args.minutes
    for index in range(args.first, args.files):
        if run.part_file(index).is_file():
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
        run.save_part(index, {"latents": latents})
        speed = PER_FILE / (time.monotonic() - started)
        mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
        run.log(file=index, pictures_per_s=round(speed, 1), mean=mean.tolist(),
                deviation=deviation.tolist())  # fmt: skip
        print(f"latents: file {index} {speed:.1f} pictures/s mean {mean.tolist()} "
              f"deviation {deviation.tolist()}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
