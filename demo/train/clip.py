"""Stage 2: both text encoders and the vision encoder, together.

Three things are learned at once. CLIP's contrastive loss (Radford et al. 2021, equation in figure
3) brings a caption's pooled embedding and its picture's together. A reader looks at what the UNet
and the IP-Adapter will look at (the last but one hidden states of either side) and must tell every
attribute from it; what a caption does not mention, it must call unmentioned. A second reader does
the same with the pooled text embedding alone. The readers are thrown away afterwards: what they
leave behind is that the states hold the attributes in a form that attention can pick up.
"""

import torch
import torch.nn.functional as F
from torch import nn

from miniature import modules

from ..world import Draws, draw_sample, reference_picture
from .config import CONFIG, TOLD_BY, attributes
from .loop import Plan, arguments, run_stage
from .tokens import tokenize, use_small_table, used_tokens

PLAN = Plan(steps=1_500, learning_rate=1e-3, weight_decay=0.02, betas=(0.9, 0.98))
UNREAD = -100  # cross_entropy's ignore index
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

# What a reference picture shows; the rest is not asked for.
SHOWN = {
    "scene": tuple(attributes()),
    "portrait": ("skin", "hair_colour", "hair_style", "mark"),
    "garment": tuple(a for a in attributes() if a.split("_")[0] in ("upper", "lower", "shoes")),
    "plate": ("place", "tone"),
}


class AttributeReader(nn.Module):
    """One query per attribute looks at a sequence (B, S, D) and names a value.

    Value 0 of every attribute means "not mentioned".
    """

    def __init__(self, width: int, inner: int = 64):
        super().__init__()
        values = attributes()
        self.queries = nn.Parameter(torch.randn(len(values), inner) * 0.02)
        self.attention = nn.MultiheadAttention(inner, 2, kdim=width, vdim=width, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(inner, 1 + len(v)) for v in values.values())

    def forward(self, states: torch.Tensor) -> list[torch.Tensor]:
        queries = self.queries.expand(len(states), -1, -1)
        found, _ = self.attention(queries, states, states, need_weights=False)
        return [head(found[:, i]) for i, head in enumerate(self.heads)]


class ClipStage:
    name = "clip"

    def __init__(self, args, device: torch.device):
        self.size = args.batch or 64
        self.seed = args.seed
        text_l, text_g = modules.build_text_l(CONFIG), modules.build_text_g(CONFIG)
        for text in (text_l, text_g):
            use_small_table(text, CONFIG.text_width)
        self.trained = nn.ModuleDict(
            {
                "text_l": text_l,
                "text_g": text_g,
                "vision": modules.build_vision(CONFIG),
                "text_reader": AttributeReader(CONFIG.context),
                "pooled_reader": AttributeReader(CONFIG.text_width),
                "vision_reader": AttributeReader(CONFIG.vision_width),
                "temperature": _Temperature(),
            }
        )
        self.other = torch.tensor(sorted(set(range(1000, 40000)) - set(used_tokens())))

    def batch(self, step: int):
        pixels, texts, said, shown = [], [], [], []
        first = (self.seed << 40) + step * self.size
        for i in range(self.size):
            draws = Draws(6, first + i)
            sample = draw_sample((1 << 50) + first + i, CONFIG.image_size)
            kind = draws.pick_weighted([("scene", 3.0), ("portrait", 1.0), ("garment", 1.0),
                                        ("plate", 1.0)])  # fmt: skip
            pixels.append(torch.from_numpy(_picture(kind, sample, draws)))
            texts.append(sample.caption)
            said.append(text_targets(sample.labels, sample.mentioned))
            shown.append(_picture_targets(sample.labels, kind))
        ids = tokenize(texts)
        self._strew(ids, Draws(7, first))
        return {
            "pixels": torch.stack(pixels).permute(0, 3, 1, 2), "ids": ids,
            "said": torch.tensor(said), "shown": torch.tensor(shown),
        }  # fmt: skip

    def _strew(self, ids: torch.Tensor, draws: Draws) -> None:
        """Put an unknown word in front of one caption in eight."""
        for row in ids:
            if draws.chance(0.125):
                row[:, 2:-1] = row[:, 1:-2].clone()
                row[:, 1] = int(self.other[draws.below(len(self.other))])

    def loss(self, batch, generator):
        context, pooled = encode_text(self.trained["text_l"], self.trained["text_g"], batch["ids"])
        states, embeds = encode_pictures(self.trained["vision"], batch["pixels"])
        from_text = reading_loss(self.trained["text_reader"](context), batch["said"])
        from_pooled = reading_loss(self.trained["pooled_reader"](pooled[:, None]), batch["said"])
        from_pictures = reading_loss(self.trained["vision_reader"](states), batch["shown"])
        contrast = self.contrast(self.trained["temperature"], pooled, embeds)
        loss = from_text[0] + 0.5 * from_pooled[0] + from_pictures[0] + 0.3 * contrast
        return loss, {
            "text": from_text[0].detach(), "text_right": from_text[1],
            "pooled_right": from_pooled[1], "vision": from_pictures[0].detach(),
            "vision_right": from_pictures[1], "contrast": contrast.detach(),
        }  # fmt: skip

    @staticmethod
    def contrast(temperature, pooled: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        """CLIP's loss between captions (B, W) and pictures (B, W)."""
        logits = temperature() * F.normalize(pooled, dim=-1) @ F.normalize(embeds, dim=-1).T
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class _Temperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def forward(self) -> torch.Tensor:
        return self.log_scale.clamp(max=4.0).exp()


def encode_text(text_l, text_g, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What SDXL's UNet reads: context (B, 77, 2 W) and pooled (B, W), from ids (B, 2, 77)."""
    first = text_l(input_ids=ids[:, 0], output_hidden_states=True)
    second = text_g(input_ids=ids[:, 1], output_hidden_states=True)
    context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    return context, second.text_embeds


def encode_pictures(vision, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Last but one hidden states (B, S, D) and projected embedding of uint8 pictures (B,3,H,W)."""
    mean = torch.tensor(PIXEL_MEAN, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(PIXEL_STD, device=pixels.device).view(3, 1, 1)
    out = vision(pixel_values=(pixels.float() / 255 - mean) / std, output_hidden_states=True)
    return out.hidden_states[-2], out.image_embeds


def _picture(kind: str, sample, draws: Draws):
    if kind == "scene":
        return sample.rendered.picture
    return reference_picture(kind, sample.scene, draws, CONFIG.image_size)


def text_targets(labels: dict[str, str], mentioned) -> list[int]:
    """One class per attribute; 0 where the caption does not mention it."""
    told = {attribute for item in mentioned for attribute in TOLD_BY[item]}
    if labels["mark"] == "none":
        told.discard("mark")  # nobody says that there are no glasses
    if labels["build"] == "average":
        told.discard("build")
    if not labels["lower_kind"]:
        told -= set(TOLD_BY["lower"])
    return [1 + values.index(labels[name]) if name in told else 0
            for name, values in attributes().items()]  # fmt: skip


def _picture_targets(labels: dict[str, str], kind: str) -> list[int]:
    return [1 + values.index(labels[name]) if name in SHOWN[kind] else UNREAD
            for name, values in attributes().items()]  # fmt: skip


def reading_loss(logits: list[torch.Tensor], targets: torch.Tensor):
    """Mean cross entropy over attributes, and the share of right answers."""
    losses, right, count = [], 0, 0
    for i, values in enumerate(logits):
        asked = targets[:, i] != UNREAD
        if asked.any():
            losses.append(F.cross_entropy(values[asked], targets[asked, i], label_smoothing=0.02))
            right += (values[asked].argmax(dim=1) == targets[asked, i]).sum()
            count += asked.sum()
    return torch.stack(losses).mean(), (right / count).detach()


def main() -> None:
    run_stage(ClipStage, PLAN, arguments("Train the text and vision encoders.").parse_args())


if __name__ == "__main__":
    main()
