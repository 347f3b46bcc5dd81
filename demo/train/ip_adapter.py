"""Stage 8: IP-Adapter Plus, on the frozen UNet and vision encoder.

Every sample may have three references, each for its own region, as the pack's scene nodes use them:
a portrait for the head, a garment on a doll for the outfit, an empty plate for the background.
Regions come from the pack (soft masks from the skeleton), layers from its table of roles. What a
reference shows is mostly left out of the caption, so that it must be taken from the reference; what
it does not show stays in the caption, so that the rest keeps following the words.

The UNet knows how to draw what it is told in words, so it teaches: beside the noise, the adapter
learns to predict what the UNet predicts for a caption that says all of it. Both see the same noisy
picture, hence a lesson without the chance that the noise brings in, and one that is as clear where
the picture is hardly visible yet, which is where its layout is decided (knowledge distillation,
Hinton et al. 2015).
"""

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn

from conditioning import ROLES
from conditioning.ip_adapter.masks import mask_tokens
from conditioning.ip_adapter.projectors import PlusProjector
from miniature import modules

from .. import nano
from ..roles import ROLE_NAMES, SAYS
from ..world import Draws, caption
from ..world.captions import MENTIONS
from .config import CONFIG
from .controlnet import build_narrow, control_picture, hint
from .diffusion import (
    attention_to,
    captions,
    conditioning,
    load_frozen,
    load_text,
    noised,
    scheduler,
    text_batch,
    weight_of_far_steps,
    weighted_loss,
)
from .latents import LatentSet, file_size, plans_of
from .loop import Plan, arguments, run_stage
from .pictures import PictureSet
from .runs import Run, load_weights
from .tokens import tokenize

PLAN = Plan(steps=4_000, learning_rate=8e-4, warmup=50, final=0.4, average=0.995, muon=True)
PRESENT = 0.6  # share of samples that have a reference of a role
NOTHING = 0.06  # share of references that are blank, as on the negative side of guidance
POSED = 0.75  # share of batches with skeletons
UNMASKED = 0.15  # share of samples whose only reference speaks everywhere
TAUGHT = 0.75  # how much the teacher counts beside the noise


def build_projector() -> PlusProjector:
    """The pack's own projector, untrained."""
    shapes = nano._resampler_shapes(CONFIG)
    weights = {name.removeprefix("image_proj."): torch.empty(s) for name, s in shapes.items()}
    projector = PlusProjector(weights)
    nn.init.normal_(projector.latents, std=CONFIG.ip_width**-0.5)
    projector.latents.requires_grad_(True)
    return projector


class References(nn.Module):
    """The adapter: the pack's own projector, and keys and values for every cross attention."""

    def __init__(self, unet):
        super().__init__()
        self.image_proj = build_projector()
        self.ip_adapter = nn.ModuleDict()
        for number, name in enumerate(unet.attn_processors):
            if ".attn2." in name:
                attention = unet.get_submodule(name.removesuffix(".processor"))
                pair = {}
                for kind in "kv":
                    source = getattr(attention, f"to_{kind}")
                    linear = nn.Linear(source.in_features, source.out_features, bias=False)
                    linear.load_state_dict(source.state_dict())
                    pair[f"to_{kind}_ip"] = linear
                self.ip_adapter[str(number)] = nn.ModuleDict(pair)


class _Told:
    """What the attention layers of one UNet call are told."""

    tokens: torch.Tensor  # (B, R, T, D)
    masks: torch.Tensor = torch.zeros(0, 0, 1, 1)  # (B, R, h, w) at latent size
    layers: torch.Tensor  # (B, R, transformer index) strength per layer


class ReferenceAttention:
    """diffusers attention processor: text attention plus masked references, added before to_out."""

    def __init__(self, pair: nn.ModuleDict, transformer_index: int, told: _Told):
        self.pair, self.index, self.told = pair, transformer_index, told

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        def heads(values):
            return values.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        told = self.told
        query = heads(attn.to_q(hidden_states))
        keys, values = (heads(part(encoder_hidden_states)) for part in (attn.to_k, attn.to_v))
        out = F.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)
        count, height, width = told.masks.shape[1:]
        grid = _grid(hidden_states.shape[1], height, width)
        for r in range(count):
            strength = told.layers[:, r, self.index]
            if not bool((strength != 0).any()):
                continue
            keys, values = (heads(self.pair[f"to_{kind}_ip"](told.tokens[:, r])) for kind in "kv")
            said = F.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)
            mask = mask_tokens(told.masks[:, r], grid, (height, width))
            out = out + said * (mask * strength[:, None])[..., None]
        return attn.to_out[1](attn.to_out[0](out))


def _grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    while height * width > tokens:
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def transformer_indices(unet) -> dict[str, int]:
    """Attention name -> position of its transformer in order of execution (middle before up)."""
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    names = [name for name in unet.attn_processors if ".attn2." in name]
    places = {name: name.split(".transformer_blocks")[0] for name in names}
    running = sorted(set(places.values()), key=lambda p: (order[p.split(".")[0]], p))
    return {name: running.index(place) for name, place in places.items()}


class IpAdapterStage:
    name = "ip_adapter"

    def __init__(self, args, device: torch.device):
        self.size = args.batch or 32
        self.seed = args.seed
        self.texts = load_text(device)
        self.noise_schedule = scheduler()
        self.unet = load_frozen("unet", "unet", modules.build_unet, device)
        self.vision = load_frozen("vision", "vision", modules.build_vision, device)
        self.controlnet = load_frozen("unet", "controlnet", build_narrow, device)
        adapter = References(self.unet)
        if Run("projector").weights_file.is_file():  # else they are about to be loaded
            adapter.image_proj.load_state_dict(load_weights("projector", "image_proj"))
        self.told = _Told()
        indices = transformer_indices(self.unet)
        processors = {}
        for number, (name, before) in enumerate(self.unet.attn_processors.items()):
            processors[name] = before
            if name in indices:
                pair = adapter.ip_adapter[str(number)]
                processors[name] = ReferenceAttention(pair, indices[name], self.told)
        self.unet.set_attn_processor(processors)
        self.layer_count = max(indices.values()) + 1
        self.trained = nn.ModuleDict({"adapter": adapter})

    @cached_property
    def pictures(self) -> PictureSet:
        return PictureSet()

    @cached_property
    def data(self) -> LatentSet:
        return LatentSet(self.pictures.files())

    def batch(self, step: int):
        draws = Draws(10, self.seed, step)
        number, rows = self.data.draw(draws, self.size)
        plans, size = plans_of(number, rows), file_size(number)
        chosen = [self._choose(draws) for _ in plans]
        layers, blank, hidden, alone = (list(parts) for parts in zip(*chosen, strict=True))
        layers = torch.stack(layers)
        masks = self.pictures.masks[number][rows].float()
        attention = attention_to(*(masks[:, ROLE_NAMES.index(r)] for r in ("character", "attire")))
        told = captions(plans, draws, hidden)
        return {
            "latents": self.data.latents(number, rows),
            "states": self.pictures.states[number][rows].float(),
            "masks": _where_they_speak(masks, layers, torch.tensor(alone)),
            "attention": attention,
            "layers": layers,
            "blank": torch.stack(blank),
            "controls": torch.stack([control_picture(plan.pose, size) for plan in plans]),
            "controlled": draws.chance(POSED),
            "full_ids": tokenize(
                [
                    _in_words(plan, mentioned | set(out))
                    for plan, (_, mentioned), out in zip(plans, told, hidden, strict=True)
                ]
            ),
            **text_batch([text for text, _ in told], size, draws),
        }

    def _choose(self, draws: Draws):
        """What one sample is told: layers (R, L), blank (R,), words left out, whether unmasked."""
        roles = len(ROLE_NAMES)
        layers, blank = torch.zeros(roles, self.layer_count), torch.zeros(roles, dtype=torch.bool)
        present = [draws.chance(PRESENT) for _ in ROLE_NAMES]
        alone = draws.chance(UNMASKED)
        if alone:
            only = draws.below(roles)
            present = [r == only for r in range(roles)]
        hidden: list[str] = []
        for r, name in enumerate(ROLE_NAMES):
            if not present[r]:
                continue
            blank[r] = draws.chance(NOTHING)
            layers[r] = _draw_layers(name, self.layer_count, draws)
            if not blank[r]:
                hidden += [item for item in SAYS[name] if draws.chance(0.9)]
        return layers, blank, hidden, alone

    def loss(self, batch, generator):
        noisy, noise, steps = noised(self.noise_schedule, batch["latents"], generator)
        with torch.no_grad():
            self._tell(None)
            taught = self._predict(batch, batch["full_ids"], noisy, steps)
        self._tell(batch)
        predicted = self._predict(batch, batch["ids"], noisy, steps)
        loss, numbers = weighted_loss(
            self.noise_schedule, predicted, noise, steps, batch["attention"]
        )
        apart = (predicted.float() - taught.float()).pow(2).mean(dim=1) * batch["attention"]
        weight = weight_of_far_steps(self.noise_schedule, steps)
        lesson = (weight * apart.mean(dim=(1, 2))).mean()
        return (1 - TAUGHT) * loss + TAUGHT * lesson, {**numbers, "lesson": lesson.detach()}

    def _predict(self, batch, ids, noisy, steps) -> torch.Tensor:
        """The noise, from a caption's token ids and whatever references are told."""
        given = conditioning(self.texts, ids, batch["time_ids"])
        extra = {}
        if batch["controlled"]:
            with torch.no_grad():
                down, middle = self.controlnet(
                    noisy, steps, controlnet_cond=hint(batch["controls"]),
                    return_dict=False, **given,
                )  # fmt: skip
            extra = {"down_block_additional_residuals": down,
                     "mid_block_additional_residual": middle}  # fmt: skip
        return self.unet(noisy, steps, **given, **extra).sample

    def _tell(self, batch) -> None:
        """Set what the attention layers are told; None = no reference."""
        if batch is None:
            self.told.masks = self.told.masks[:, :0]
            return
        states = batch["states"]
        with torch.no_grad():
            nothing = encode_blank(self.vision, states.device)
        states = torch.where(batch["blank"][:, :, None, None], nothing, states)
        tokens = self.trained["adapter"].image_proj(states.flatten(0, 1))
        self.told.tokens = tokens.unflatten(0, states.shape[:2])
        self.told.masks, self.told.layers = batch["masks"], batch["layers"]


def _where_they_speak(masks, layers, alone: torch.Tensor) -> torch.Tensor:
    """(B, R, h, w): regions as the pack's scenes use them, and everywhere for those in `alone`.

    A character without attire speaks for the whole body (`Role.region_alone`).
    """
    character, attire, background = (ROLE_NAMES.index(r) for r in
                                     ("character", "attire", "background"))  # fmt: skip
    masks = masks.clone()
    undressed = (layers[:, attire] == 0).all(dim=1)
    masks[undressed, character] = 1 - masks[undressed, background]
    masks[alone] = 1.0
    return masks


def _in_words(plan, mention) -> str:
    """A caption of exactly these parts."""
    return caption(plan.scene, plan.pose.action, leave_out=set(MENTIONS) - mention)


def encode_blank(vision, device) -> torch.Tensor:
    """Hidden states (1, S, D) of zeros after normalisation: "no reference", as adapters have it."""
    edge = CONFIG.image_size
    zeros = torch.zeros(1, 3, edge, edge, device=device)
    return vision(pixel_values=zeros, output_hidden_states=True).hidden_states[-2]


def role_layers(role: str, count: int) -> torch.Tensor:
    """(L,) strengths of a role's layers, from the pack's table."""
    return torch.tensor([ROLES[role].layer_weights.get(i, 0.0) for i in range(count)])


def _draw_layers(role: str, count: int, draws: Draws) -> torch.Tensor:
    """As the role's table has it, or 1 everywhere in one case of three; weight 0.7 to 1.2."""
    table = torch.ones(count) if draws.chance(0.33) else role_layers(role, count)
    return table * (1.0 if draws.chance(0.6) else draws.between(0.7, 1.2))


def main() -> None:
    run_stage(IpAdapterStage, PLAN, arguments("Train the IP-Adapter.").parse_args())


if __name__ == "__main__":
    main()
