"""The ControlNet of a scene: each frame and each place gets its own part of pose and strength."""

from collections.abc import Mapping, Sequence

import comfy.utils
import torch
import torch.nn.functional as F
from comfy.controlnet import ControlBase
from node_helpers import conditioning_set_values

from ...conditioning import LATENT_PX, SceneError
from ...conditioning.ip_adapter import mask_tokens
from .reference_run import call_of
from .view import WHOLE, Rect, View, check_canvas, part_of_places, places, rows_for

MOST_RESIZED = 64  # masks kept at once; windows that move with every step would pile up


class MaskedControl(ControlBase):
    """A ControlNet that is shown the frames and the place it is asked about, times a mask.

    Wraps any core control object (ControlNet, Control-LoRA, T2I-Adapter) or one of
    Advanced-ControlNet and follows its protocol: copies are independent, earlier ControlNets of
    the chain are not touched, and for a whole picture without a mask it gives exactly what the
    wrapped object gives.

    Args:
        control: the wrapped object, owned by this one from now on: pass a copy.
        mask_nhw: (N, h, w) float 0..1 at any size; resized by area to every resolution of the UNet.
            One mask serves all frames; N masks belong to frames as N control pictures do. None
            is 1 everywhere.
    """

    # AnimateDiff-Evolved refuses control objects without these, and sets them for each window.
    # The windows themselves are read where references read them, from the transformer options.
    sub_idxs = None
    full_latent_length = 0
    context_length = 0

    def __init__(self, control: ControlBase, mask_nhw: torch.Tensor | None = None) -> None:
        self.control = control
        self.hint_nchw: torch.Tensor | None = None
        self.part: Rect | None = None  # the crop another pack made, see cond_hint_original
        super().__init__()
        self.mask_nhw = mask_nhw
        self.resized: dict[tuple, torch.Tensor] = {}
        self.shown: tuple | None = None
        # Core's nodes ask the object on the socket for these.
        self.latent_format = control.latent_format
        self.compression_ratio = control.compression_ratio
        self.concat_mask = control.concat_mask
        self.extra_hooks = control.extra_hooks

    @property
    def cond_hint_original(self) -> torch.Tensor | None:
        """What packs that cut pictures into tiles crop: a picture that tells its own places."""
        hint = self.hint_nchw
        return None if hint is None else places(*hint.shape[-2:], frames=hint.shape[0])

    @cond_hint_original.setter
    def cond_hint_original(self, picture: torch.Tensor | None) -> None:
        if picture is None or self.hint_nchw is None or picture.shape[1] != 4:
            self.hint_nchw, self.part = picture, None
            self.control.cond_hint_original = picture
            return
        self.part = part_of_places(picture, *self.hint_nchw.shape[-2:])
        if self.part is None:
            raise SceneError(
                "Another node turned or padded the pose pictures of Compose Scene: sample the "
                "whole picture, or tile it without padding."
            )

    def set_cond_hint(self, cond_hint, *args, **kwargs) -> "MaskedControl":
        self.control.set_cond_hint(cond_hint, *args, **kwargs)
        self.hint_nchw, self.part = cond_hint, None
        return self

    def set_extra_arg(self, argument, value=None) -> None:
        self.control.set_extra_arg(argument, value)

    def pre_run(self, model, percent_to_timestep_function) -> None:
        super().pre_run(model, percent_to_timestep_function)
        self._show(None)
        self.control.pre_run(model, percent_to_timestep_function)

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        before = None
        if self.previous_controlnet is not None:
            before = self.previous_controlnet.get_control(
                x_noisy, t, cond, batched_number, transformer_options
            )
        views = self._views(x_noisy, transformer_options, batched_number)
        self._show(views, transformer_options)
        own = self.control.get_control(x_noisy, t, cond, batched_number, transformer_options)
        if own is None:
            return before
        return self.control_merge(self._masked(own, views), before, None)

    def copy(self) -> "MaskedControl":
        return self._twin(self.control.copy())

    def deepclone_multigpu(self, load_device, autoregister=False) -> "MaskedControl":
        twin = self._twin(self.control.deepclone_multigpu(load_device))
        if autoregister:
            self.multigpu_clones[load_device] = twin
        return twin

    def _twin(self, control: ControlBase) -> "MaskedControl":
        twin = MaskedControl(control, self.mask_nhw)
        twin.cond_hint_original = self.hint_nchw
        twin.part = self.part
        twin.strength = self.strength
        twin.extra_hooks = self.extra_hooks.clone() if self.extra_hooks else None
        return twin

    def get_models(self) -> list:
        return super().get_models() + self.control.get_models()

    def inference_memory_requirements(self, dtype) -> int:
        own = self.control.inference_memory_requirements(dtype)
        return own + super().inference_memory_requirements(dtype)

    def cleanup(self) -> None:
        self._show(None)
        self.control.cleanup()
        self.resized.clear()
        super().cleanup()

    def _views(self, x_noisy, options: Mapping, chunks: int) -> list[View]:
        """What each of the `chunks` conditionings of a batch sees.

        Raises:
            SceneError: it is no part of the scene that anybody says the place of.
        """
        hw = tuple(x_noisy.shape[-2:])
        call = call_of(options, hw)
        views = call.views({"cond_or_uncond": [0] * chunks, **options}, x_noisy.shape[0], hw)
        if self.part is None:
            height, width = self.hint_nchw.shape[-2:]
            check_canvas(call.run.latent_hw, (height / LATENT_PX, width / LATENT_PX))
        elif call.run.named is None:  # a model that is not of a scene, with prompts that are
            views = [View(view.frames, view.total, hw, self.part) for view in views]
        return list(views)

    def _show(self, views: Sequence[View] | None, options: Mapping | None = None) -> None:
        """Have the wrapped object see the control pictures of these views, or all for None."""
        key = None
        if views and not all(self._is_all(view) for view in views):
            theirs = hasattr(self.control, "ACN_VERSION") and (options or {}).get("ad_params")
            picks_frames = bool(theirs) and theirs.get("sub_idxs") is not None
            key = (picks_frames, *((view.frames, view.total, view.part) for view in views))
        if key == self.shown:
            return
        self.shown = key
        hint = self.hint_nchw if key is None else self._hint_of(views, picks_frames)
        self.control.cond_hint_original = hint
        self.control.cond_hint = None

    def _is_all(self, view: View) -> bool:
        return view.part == WHOLE and view.frames == tuple(range(view.total))

    def _hint_of(self, views: Sequence[View], picks_frames: bool) -> torch.Tensor:
        """Control pictures as core takes them: for all chunks alike, or one after the other.

        An object of Advanced-ControlNet picks the frames of a window itself, with all it has for
        each frame, so it gets every frame.
        """
        if picks_frames:
            views = [View(tuple(range(v.total)), v.total, v.hw, v.part) for v in views]
        if len(set(views)) == 1:
            return self._crop(views[0])
        if picks_frames:
            raise SceneError(
                "Prompts with different areas, context options and a ControlNet of "
                "Advanced-ControlNet meet: load the ControlNet with core's Load ControlNet Model."
            )
        crops = [self._crop(view).expand(len(view.frames), -1, -1, -1) for view in views]
        height, width = crops[0].shape[-2:]
        same = [comfy.utils.common_upscale(c, width, height, "bilinear", "no") for c in crops]
        return torch.cat(same)

    def _crop(self, view: View) -> torch.Tensor:
        hint = rows_for(self.hint_nchw, view, "poses")
        (top, bottom), (left, right) = (
            _pixels(start, length, size)
            for start, length, size in zip(
                view.part[:2], view.part[2:], hint.shape[-2:], strict=True
            )
        )
        return hint[..., top:bottom, left:right]

    def _masked(self, residuals: dict, views: Sequence[View]) -> dict:
        """Residuals times the mask; one tensor that is used twice stays one tensor."""
        if self.mask_nhw is None:
            return residuals
        done: dict[int, torch.Tensor] = {}

        def one(residual: torch.Tensor | None) -> torch.Tensor | None:
            if residual is None:
                return None
            if id(residual) not in done:
                done[id(residual)] = residual * self._mask_for(residual, views)
            return done[id(residual)]

        return {name: [one(residual) for residual in items] for name, items in residuals.items()}

    def _mask_for(self, residual: torch.Tensor, views: Sequence[View]) -> torch.Tensor:
        """(chunks * frames, 1, h, w) for a residual."""
        size, device, dtype = tuple(residual.shape[-2:]), residual.device, residual.dtype
        key = (size, tuple(views), device, dtype)
        if key not in self.resized:
            if len(self.resized) >= MOST_RESIZED:
                self.resized.clear()
            made = {view: self._mask_of(view, size, device) for view in set(views)}
            self.resized[key] = torch.cat([made[view] for view in views]).to(dtype)
        return self.resized[key]

    def _mask_of(self, view: View, size: tuple[int, int], device) -> torch.Tensor:
        mask = rows_for(self.mask_nhw, view, "control masks").to(device, torch.float32)
        if view.part == WHOLE:
            small = F.adaptive_avg_pool2d(mask[:, None], size)
        else:
            small = mask_tokens(mask, size, view.canvas_hw, view.area).view(-1, 1, *size)
        return small.expand(len(view.frames), -1, -1, -1)


def _pixels(start: float, length: float, size: int) -> tuple[int, int]:
    """(first, one after the last) pixel of a span given in parts of `size`."""
    first = min(round(start * size), size - 1)
    return first, max(round((start + length) * size), first + 1)


def placed_control(control_net: ControlBase, mask_nhw: torch.Tensor | None) -> MaskedControl:
    """A copy of `control_net` for a scene; it acts where the mask (N, h, w) is bright.

    Raises:
        ValueError: the mask is not (N, h, w) or holds values outside 0..1.
    """
    if mask_nhw is None:
        return MaskedControl(control_net.copy())
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
