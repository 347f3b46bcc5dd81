"""Stage 3: the vision encoder, further; the text encoders stay, and with them the UNet.

What IP-Adapter can carry over from a reference is what this encoder tells apart, so it is worth
more time than the text encoders need.
"""

import torch

from .clip import ClipStage, encode_pictures, encode_text, reading_loss
from .loop import Plan, arguments, run_stage
from .runs import load_weights

PLAN = Plan(steps=1_800, learning_rate=6e-4, warmup=100, weight_decay=0.02, betas=(0.9, 0.98))
LEARNING = ("vision", "vision_reader")


class VisionStage(ClipStage):
    name = "vision"

    def __init__(self, args, device: torch.device):
        super().__init__(args, device)
        for name, module in self.trained.items():
            module.load_state_dict(load_weights("clip", name))
        self.frozen = {
            name: module.to(device).eval().requires_grad_(False)
            for name, module in self.trained.items()
            if name not in LEARNING
        }
        self.trained = torch.nn.ModuleDict({name: self.trained[name] for name in LEARNING})

    def loss(self, batch, generator):
        with torch.no_grad():
            _, pooled = encode_text(self.frozen["text_l"], self.frozen["text_g"], batch["ids"])
        states, embeds = encode_pictures(self.trained["vision"], batch["pixels"])
        read = reading_loss(self.trained["vision_reader"](states), batch["shown"])
        contrast = self.contrast(self.frozen["temperature"], pooled, embeds)
        return read[0] + 0.2 * contrast, {
            "vision": read[0].detach(), "vision_right": read[1], "contrast": contrast.detach(),
        }  # fmt: skip


def main() -> None:
    run_stage(VisionStage, PLAN, arguments("Train the vision encoder further.").parse_args())


if __name__ == "__main__":
    main()
