"""Stage 6: what the image encoder sees in reference pictures, and the regions they speak for.

Drawing three references and looking at them takes longer than a training step of the IP-Adapter, so
this is done once for the first files of the training set: beside `part-NNN` of the latents lies
`part-NNN` with the hidden states of a portrait, a garment on a doll and an empty plate for every
sample, and its three region masks.
"""

import time

import torch

from miniature import modules

from ..roles import PICTURES, REGIONS, ROLE_NAMES
from ..world import Draws, plan_sample, reference_picture
from .clip import encode_pictures
from .config import CONFIG
from .controlnet import region_masks
from .diffusion import load_frozen
from .latents import PER_FILE, file_size
from .loop import arguments, quick
from .runs import Run, TrainingError

FILES = 6  # the last of them is wide
AT_ONCE = 32


class PictureSet:
    """The encoded references, in memory as float16."""

    def __init__(self):
        parts = Run("pictures").parts()
        self.states = {number: part["states"] for number, part in parts.items()}
        self.masks = {number: part["masks"] for number, part in parts.items()}
        if not self.states:
            raise TrainingError("No reference is encoded: run python -m demo.train.pictures")

    def files(self) -> set[int]:
        return set(self.states)


def look(vision, seeds: range, size: tuple[int, int], device) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, R, S, D) hidden states and (N, R, h, w) masks of the samples with these seeds."""
    pictures, masks = [], []
    for seed in seeds:
        plan, draws = plan_sample(seed, size[0] / size[1]), Draws(13, seed)
        for name in ROLE_NAMES:
            drawn = reference_picture(PICTURES[name], plan.scene, draws, CONFIG.image_size)
            pictures.append(torch.from_numpy(drawn).permute(2, 0, 1))
        masks.append(region_masks(plan.pose, size, REGIONS))
    with torch.inference_mode(), quick(device):
        states, _ = encode_pictures(vision, torch.stack(pictures).to(device))
    states = states.float().cpu().unflatten(0, (len(seeds), len(ROLE_NAMES)))
    return states, torch.stack(masks)


def main() -> None:
    parser = arguments("Encode reference pictures.")
    parser.add_argument("--files", type=int, default=FILES, help=f"files of {PER_FILE} samples")
    parser.add_argument("--first", type=int, default=0, help="begin here: two can share the work")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device, run = torch.device(args.device), Run("pictures")
    vision = load_frozen("vision", "vision", modules.build_vision, device)
    end = time.monotonic() + 60 * args.minutes
    for index in range(args.first, args.files):
        if run.part_file(index).is_file():
            continue
        started, found = time.monotonic(), []
        for first in range(index * PER_FILE, (index + 1) * PER_FILE, AT_ONCE):
            found.append(look(vision, range(first, first + AT_ONCE), file_size(index), device))
            if time.monotonic() > end:
                print(f"pictures: file {index} starts anew next time", flush=True)
                return
        states, masks = (torch.cat(parts) for parts in zip(*found, strict=True))
        run.save_part(index, {"states": states, "masks": masks})
        speed = PER_FILE / (time.monotonic() - started)
        run.log(file=index, samples_per_s=round(speed, 1))
        print(f"pictures: file {index} {speed:.1f} samples/s", flush=True)


if __name__ == "__main__":
    main()
