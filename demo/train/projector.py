"""Stage 7: the IP-Adapter's projector learns to say what it sees.

Its tokens are read by the reader that the text encoders were trained with, frozen: a portrait must
read like a caption that mentions skin, hair and mark and nothing else. The UNet already understands
such tokens, so the IP-Adapter, which begins with the keys and values of the text, has a start from
which a thousand steps are enough. No picture is made here, so this takes a minute or two.
"""

import torch
from torch import nn

from ..roles import ROLE_NAMES, SAYS
from ..world import Draws
from .clip import AttributeReader, reading_loss, text_targets
from .config import CONFIG
from .ip_adapter import build_projector
from .latents import plans_of
from .loop import Plan, arguments, run_stage
from .pictures import PictureSet
from .runs import load_weights

PLAN = Plan(steps=600, learning_rate=1e-3, warmup=50, final=0.5, average=0.99, muon=True)


class ProjectorStage:
    name = "projector"

    def __init__(self, args, device: torch.device):
        self.size = args.batch or 128
        self.seed = args.seed
        self.pictures = PictureSet()
        self.reader = AttributeReader(CONFIG.context)
        self.reader.load_state_dict(load_weights("clip", "text_reader"))
        self.reader.to(device).eval().requires_grad_(False)
        self.trained = nn.ModuleDict({"image_proj": build_projector()})

    def batch(self, step: int):
        draws = Draws(14, self.seed, step)
        number = draws.pick(sorted(self.pictures.files()))
        states = self.pictures.states[number]
        rows = [draws.below(len(states)) for _ in range(self.size)]
        roles = [draws.below(len(ROLE_NAMES)) for _ in rows]
        said = [
            text_targets(plan.labels, SAYS[ROLE_NAMES[role]])
            for plan, role in zip(plans_of(number, rows), roles, strict=True)
        ]
        return {"states": states[rows, roles].float(), "said": torch.tensor(said)}

    def loss(self, batch, generator):
        tokens = self.trained["image_proj"](batch["states"])
        loss, right = reading_loss(self.reader(tokens), batch["said"])
        return loss, {"right": right}


def main() -> None:
    run_stage(ProjectorStage, PLAN, arguments("Train the IP-Adapter's projector.").parse_args())


if __name__ == "__main__":
    main()
