"""Carries a scene plan out with ComfyUI's models: text, ControlNet, references, latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from node_helpers import conditioning_set_values

from ...conditioning import LATENT_PX, Reference, SceneError, ScenePlan
from .control_masks import apply_control, placed_control
from .ip_adapter import apply_reference
from .reference_stack import followed
from .step_noise import with_step_noise

LATENT_CHANNELS = 4  # SDXL


@dataclass(frozen=True)
class Models:
    """What is connected to the sockets; None where nothing is."""

    model: Any
    clip: Any
    vae: Any
    control_net: Any = None
    ipadapter: Any = None
    clip_vision: Any = None


@dataclass(frozen=True)
class Control:
    """How strongly the pose steers, and during which part of the steps."""

    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0


def named_references(**sockets) -> tuple[Reference, ...]:
    """The references that are connected, each on the socket of its role.

    Raises:
        SceneError: a reference of another role.
    """
    for name, one in sockets.items():
        if one is not None and one.role.name != name:
            raise SceneError(
                f"The {name} socket got {one.role.name}: "
                f"connect the node {name.capitalize()} to it."
            )
    return tuple(one for one in sockets.values() if one is not None)


def check(models: Models, control: Control, references: Sequence[Reference]) -> None:
    """Say what is missing before anything expensive starts.

    Raises:
        SceneError: naming the sockets.
    """
    for name in ("model", "clip", "vae"):
        if getattr(models, name) is None:
            raise SceneError(
                f"The {name} socket got nothing: the checkpoint holds no {name.upper()}. "
                "Connect one from another loader."
            )
    sockets = {"ipadapter": models.ipadapter, "clip_vision": models.clip_vision}
    missing = " and ".join(name for name, value in sockets.items() if value is None)
    speaking = " and ".join(one.role.name for one in references if one.speaks)
    if speaking and missing:
        raise SceneError(
            f"Nothing is connected to {missing}, which the {speaking} reference needs: "
            "add Load IP-Adapter and Load CLIP Vision, or disconnect the reference."
        )
    if not 0.0 <= control.start_percent <= control.end_percent <= 1.0:
        raise SceneError(
            f"pose_start is {control.start_percent:g} and pose_end is {control.end_percent:g}: "
            "both must lie in 0..1 with pose_start <= pose_end."
        )


def compose(
    plan: ScenePlan,
    models: Models,
    control: Control,
    prompt: str,
    negative: str,
    region_strength: float,
) -> tuple[Any, list, list, dict]:
    """(MODEL, positive, negative, LATENT) of a plan."""
    texts = conditionings(plan, models, prompt, negative, region_strength)
    positive, negative_out = with_control(plan, models, control, *texts)
    return with_references(plan, models), positive, negative_out, latents(plan, models)


def encode_text(clip, text: str) -> list:
    """Core CONDITIONING of a text; as in core's own node the model adds SDXL's size ids itself."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def conditionings(
    plan: ScenePlan, models: Models, prompt: str, negative: str, region_strength: float
) -> tuple[list, list]:
    """(positive, negative) CONDITIONING: the prompt everywhere, region prompts in their masks."""
    positive = encode_text(models.clip, prompt)
    for placed in plan.prompts:
        values = {
            "mask": placed.mask,
            # Cropping to the mask would cut references and control off from the full picture.
            "set_area_to_bounds": False,
            "mask_strength": region_strength,
        }
        positive = positive + conditioning_set_values(encode_text(models.clip, placed.text), values)
    return positive, encode_text(models.clip, negative)


def with_control(plan: ScenePlan, models: Models, control: Control, positive, negative):
    """(positive, negative) steered by the control pictures of the plan."""
    if models.control_net is None:
        return positive, negative
    return apply_control(
        [positive, negative],
        placed_control(models.control_net, plan.control_map),
        plan.hint_nhwc,
        strength=control.strength,
        start_percent=control.start_percent,
        end_percent=control.end_percent,
        vae=models.vae,
    )


def with_references(plan: ScenePlan, models: Models):
    """A clone of the model that attends to the references of the plan, each in its place."""
    model = followed(with_step_noise(models.model, plan.noise_indices))
    for placed in plan.references:
        model = apply_reference(
            model,
            models.ipadapter,
            models.clip_vision,
            placed.reference.prepared_images(),
            mask=placed.mask,
            canvas_hw=plan.grid,
            **placed.reference.attention_options(),
        )
    return model


def latents(plan: ScenePlan, models: Models) -> dict:
    """LATENT for all frames; with a plate, its encoding and the mask of what to paint over it.

    `batch_index` gives every frame the noise of its number, so frames made in several runs with the
    same seed equal those made in one; with shared noise all have one number.
    """
    device = comfy.model_management.intermediate_device()
    count, (height, width) = len(plan.frames), plan.grid
    out: dict[str, Any] = {
        "downscale_ratio_spacial": LATENT_PX,
        "batch_index": list(plan.noise_indices),
    }
    if plan.plate is None:
        out["samples"] = torch.zeros(count, LATENT_CHANNELS, height, width, device=device)
        return out
    samples = models.vae.encode(plan.plate.images)
    out["samples"] = samples.expand(count, -1, -1, -1) if len(samples) == 1 else samples
    out["noise_mask"] = plan.plate.painted[:, None].to(device)
    return out
