"""ControlNet strength as a map: where in the picture, and in which frame, control is strong."""

import torch
import torch.nn.functional as F
from comfy.controlnet import ControlBase
from node_helpers import conditioning_set_values


class MaskedControl(ControlBase):
    """A ControlNet whose residuals are multiplied by a mask per frame.

    Wraps any core control object (ControlNet, Control-LoRA, T2I-Adapter, another MaskedControl) and
    follows its protocol: copies are independent, earlier ControlNets of the chain are not masked,
    and a mask of ones gives exactly what the wrapped object gives.

    Args:
        control: the wrapped object, owned by this one from now on: pass a copy.
        mask_nhw: (N, h, w) float 0..1 at any size; resized by area to every resolution of the UNet.
            One mask serves all frames; N masks belong to frames as N control pictures do.
    """

    def __init__(self, control: ControlBase, mask_nhw: torch.Tensor) -> None:
        super().__init__()
        self.control = control
        self.mask_nhw = mask_nhw
        self.resized: dict[tuple, torch.Tensor] = {}
        # Core's nodes ask the object on the socket for these.
        self.latent_format = control.latent_format
        self.compression_ratio = control.compression_ratio
        self.concat_mask = control.concat_mask
        self.extra_hooks = control.extra_hooks

    def set_cond_hint(self, *args, **kwargs) -> "MaskedControl":
        self.control.set_cond_hint(*args, **kwargs)
        return self

    def set_extra_arg(self, argument, value=None) -> None:
        self.control.set_extra_arg(argument, value)

    def pre_run(self, model, percent_to_timestep_function) -> None:
        super().pre_run(model, percent_to_timestep_function)
        self.control.pre_run(model, percent_to_timestep_function)

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        before = None
        if self.previous_controlnet is not None:
            before = self.previous_controlnet.get_control(
                x_noisy, t, cond, batched_number, transformer_options
            )
        own = self.control.get_control(x_noisy, t, cond, batched_number, transformer_options)
        if own is None:
            return before
        return self.control_merge(self._masked(own, x_noisy.shape[0], batched_number), before, None)

    def copy(self) -> "MaskedControl":
        twin = MaskedControl(self.control.copy(), self.mask_nhw)
        self.copy_to(twin)
        return twin

    def deepclone_multigpu(self, load_device, autoregister=False) -> "MaskedControl":
        twin = MaskedControl(self.control.deepclone_multigpu(load_device), self.mask_nhw)
        self.copy_to(twin)
        if autoregister:
            self.multigpu_clones[load_device] = twin
        return twin

    def get_models(self) -> list:
        return super().get_models() + self.control.get_models()

    def inference_memory_requirements(self, dtype) -> int:
        own = self.control.inference_memory_requirements(dtype)
        return own + super().inference_memory_requirements(dtype)

    def cleanup(self) -> None:
        self.control.cleanup()
        self.resized.clear()
        super().cleanup()

    def _masked(self, residuals: dict, batch: int, chunks: int) -> dict:
        """Residuals times the mask; one tensor that is used twice stays one tensor."""
        done: dict[int, torch.Tensor] = {}

        def one(residual: torch.Tensor | None) -> torch.Tensor | None:
            if residual is None:
                return None
            if id(residual) not in done:
                done[id(residual)] = residual * self._mask_for(residual, batch, chunks)
            return done[id(residual)]

        return {name: [one(residual) for residual in items] for name, items in residuals.items()}

    def _mask_for(self, residual: torch.Tensor, batch: int, chunks: int) -> torch.Tensor:
        """(batch, 1, h, w) for a residual; a batch is `chunks` conditionings of all frames."""
        size, device, dtype = tuple(residual.shape[-2:]), residual.device, residual.dtype
        key = (size, batch, chunks, device, dtype)
        if key not in self.resized:
            mask = frames_for(self.mask_nhw, batch // chunks)[:, None].to(device, torch.float32)
            mask = F.adaptive_avg_pool2d(mask, size).to(dtype)
            self.resized[key] = mask.repeat(chunks, 1, 1, 1)
        return self.resized[key]


def frames_for(mask_nhw: torch.Tensor, frames: int) -> torch.Tensor:
    """Masks for `frames` frames: cut or repeated in order, as core does with control pictures."""
    return mask_nhw[[index % mask_nhw.shape[0] for index in range(frames)]]


def masked_control(control_net: ControlBase, mask_nhw: torch.Tensor) -> MaskedControl:
    """A copy of `control_net` that acts where the mask (N, h, w) is bright.

    Raises:
        ValueError: the mask is not (N, h, w) or holds values outside 0..1.
    """
    if mask_nhw.ndim != 3 or 0 in mask_nhw.shape:
        raise ValueError(f"The control mask must be (N, h, w), got {tuple(mask_nhw.shape)}.")
    if not bool(((mask_nhw >= 0.0) & (mask_nhw <= 1.0)).all()):
        raise ValueError("The control mask must hold values from 0 to 1.")
    return MaskedControl(control_net.copy(), mask_nhw.detach().to("cpu", torch.float32).clone())


def apply_control(
    conditionings: list[list],
    control_net: ControlBase,
    hint_bhwc: torch.Tensor,
    *,
    strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    vae=None,
) -> list[list]:
    """The conditionings (positive, negative, ...) with `control_net` behind what they had.

    All entries that had the same ControlNet before share one new object: the sampler runs them in
    one batch only then.
    """
    if strength == 0:
        return conditionings
    hint = hint_bhwc.movedim(-1, 1)
    shared: dict = {}

    def controlled(entry: list) -> list:
        before = entry[1].get("control")
        if before not in shared:
            control = control_net.copy()
            control.set_cond_hint(hint, strength, (start_percent, end_percent), vae=vae)
            shared[before] = control.set_previous_controlnet(before)
        values = {"control": shared[before], "control_apply_to_uncond": False}
        return conditioning_set_values([entry], values)[0]

    return [[controlled(entry) for entry in entries] for entries in conditionings]
