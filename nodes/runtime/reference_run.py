"""What one sampling run knows about references: who is told, when, where, and the keys and values.

A `ReferenceRun` lives in the guider's own copy of the model options from the start of a run to its
end, so nothing outlives the run and nothing is global. For every batch of conditionings the model
is asked about, a `Call` says which of them are told the references: the guider's names decide
("positive" against "negative"), never the position in a list, which differs between guiders. It
also gives each of them its `View`, which ControlNets of a scene ask for, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ...conditioning.ip_adapter import (
    IPAdapterError,
    KeysValues,
    ReferenceTokens,
    mask_tokens,
    token_grid,
)
from .polarity import is_told, told_by_id
from .view import (
    ONE_FRAME,
    WHOLE,
    Rect,
    View,
    check_canvas,
    frames_seen,
    inside,
    named_part,
    pixels,
    rows_for,
    unknown_place,
)

KEY = "troupe_references"

# Keys and values beyond this are projected again in every step instead of being kept.
CACHE_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class BoundReference:
    """A reference tied to a model: tokens, strength for each layer, place and time.

    Attributes:
        weights: the adapter (`AdapterWeights`) that projects keys and values.
        tokens: what is said, with the reference and without.
        layer_weights: index of an adapter pair -> strength, never 0.
        mask: (M, H, W) over the picture, or None for everywhere.
        percents: (start, end) of the sampling steps, 0..1.
        sigmas: (highest, lowest) noise level, both included, as the model had them when applied.
        per_frame: latent i is told picture i.
        canvas_hw: size of the scene in latents that the mask is drawn on; None if it fits any.
    """

    weights: object
    tokens: ReferenceTokens
    layer_weights: Mapping[int, float]
    mask: torch.Tensor | None
    percents: tuple[float, float]
    sigmas: tuple[float, float]
    per_frame: bool = False
    canvas_hw: tuple[int, int] | None = None

    def keys_values(self, index: int, dtype: torch.dtype, device: torch.device) -> KeysValues:
        module, weight = self.weights.module, self.layer_weights[index]
        pairs = (
            module.keys_values(index, tokens.to(device=device, dtype=dtype), weight)
            for tokens in (self.tokens.positive, self.tokens.negative)
        )
        return KeysValues(*pairs)

    @property
    def keeps_loaded(self) -> bool:
        """Too large to keep keys and values of, so the adapter is needed in every step."""
        return self.cache_bytes(torch.float32) > CACHE_BYTES

    def cache_bytes(self, dtype: torch.dtype) -> int:
        """Size of the keys and values of all layers."""
        rows = sum(t.shape[0] * t.shape[1] for t in (self.tokens.positive, self.tokens.negative))
        channels = sum(self.weights.spec.channels[index] for index in self.layer_weights)
        return 2 * rows * channels * dtype.itemsize


def sigma_range(sampling, percents: tuple[float, float]) -> tuple[float, float]:
    """(highest, lowest) sigma of a part of the steps, by the model's own schedule."""
    return tuple(float(sampling.percent_to_sigma(percent)) for percent in percents)


def references_in(model_options: Mapping) -> list[BoundReference]:
    """Every reference in a model's attention patches, each once."""
    patches = model_options.get("transformer_options", {}).get("patches_replace", {})
    found: dict[BoundReference, None] = {}
    for patch in patches.get("attn2", {}).values():
        found.update(dict.fromkeys(getattr(patch, "references", ())))
    return list(found)


class ReferenceRun:
    """One sampling run of a guider whose model has references."""

    def __init__(self, guider, references: Sequence[BoundReference], shape: Sequence[int]):
        sampling = guider.model_patcher.get_model_object("model_sampling")
        self.guider = guider
        self.references = references
        self.frames = shape[0]
        self.latent_hw = (int(shape[-2]), int(shape[-1]))
        self.named = named_part(getattr(guider, "conds", {}))
        self._sigmas = {ref: sigma_range(sampling, ref.percents) for ref in references}
        self._cache: dict[tuple, KeysValues] = {}
        self._cached_bytes = 0
        self._masks: dict[tuple, torch.Tensor] = {}

    def check(self) -> None:
        """Refuse frame counts and sizes that do not fit, before any step is made.

        Raises:
            SceneError: names both counts or sizes.
        """
        for ref in self.references:
            if ref.canvas_hw and ref.mask is not None and self.named is None:
                check_canvas(self.latent_hw, ref.canvas_hw)
            counts = {
                "reference pictures": ref.tokens.frames if ref.per_frame else 1,
                "mask frames": 1 if ref.mask is None else ref.mask.shape[0],
            }
            for what, count in counts.items():
                if count not in (1, self.frames):
                    raise IPAdapterError(
                        f"{count} {what} meet {self.frames} latents: give one for each latent "
                        f"or a single one for all. Of a scene, {ONE_FRAME}."
                    )

    def prepare(self, sigmas: torch.Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """Project the keys and values of this run while the adapter has the memory to itself.

        Called before the diffusion model is loaded, so the memory they take is already gone when
        ComfyUI measures what is free, and the adapter's own weights may leave again.
        """
        low, high = float(sigmas.min()), float(sigmas.max())
        for ref in self.references:
            top, bottom = self._sigmas[ref]
            if top < low or bottom > high:
                continue
            ref.weights.load()
            if self._cached_bytes + ref.cache_bytes(dtype) <= CACHE_BYTES:
                for index in ref.layer_weights:
                    self.keys_values(ref, index, dtype, device)

    def keys_values(
        self, ref: BoundReference, index: int, dtype: torch.dtype, device: torch.device
    ) -> KeysValues:
        key = (ref, index, dtype, device)
        if key not in self._cache:
            made = ref.keys_values(index, dtype, device)
            if self._cached_bytes + made.nbytes > CACHE_BYTES:
                return made
            self._cached_bytes += made.nbytes
            self._cache[key] = made
        return self._cache[key]

    def mask(self, ref: BoundReference, grid, view: View, like: torch.Tensor):
        """(M, N) mask of `ref` on a token grid, kept for the run."""
        key = (ref, grid, view.hw, view.part, like.dtype, like.device)
        if key not in self._masks:
            self._masks[key] = _on_grid(ref, grid, view).to(like)
        return self._masks[key]

    def part(self, area: Sequence[int] | None, hw: tuple[int, int]) -> Rect:
        """The part of the canvas that a prompt with this area (or none) shows.

        Raises:
            SceneError: the latents are neither that area nor the whole.
        """
        own = self.named or WHOLE
        if (tuple(area[:2]) if area else self.latent_hw) != hw:
            raise unknown_place(hw, self.latent_hw)
        if not area:
            return own
        (height, width), (tall, wide, top, left) = self.latent_hw, area
        return inside(own, (top / height, left / width, tall / height, wide / width))

    def active(self, ref: BoundReference, sigma: float | None) -> bool:
        top, bottom = self._sigmas.get(ref, ref.sigmas)
        return sigma is None or bottom <= sigma <= top

    def call(self, conds: Sequence, timestep: torch.Tensor) -> "Call":
        """Sort out one batch of conditioning lists, as a guider hands them to the model."""
        named = getattr(self.guider, "conds", {})
        areas = {
            (index, cond.get("uuid")): _area(cond["area"], self.latent_hw)
            for index, group in enumerate(conds)
            for cond in group or ()
            if "area" in cond and not isinstance(cond["area"][0], str)
        }
        told = tuple(is_told(group or (), named) for group in conds)
        return Call(self, float(timestep.flatten()[0]), told, areas)

    def close(self) -> None:
        self._cache.clear()
        self._masks.clear()
        self.guider = None


@dataclass(frozen=True, eq=False)
class Call:
    """One batch of conditioning lists: who is told, at which noise level, and where each one is."""

    run: ReferenceRun
    sigma: float | None
    told: tuple[bool, ...]
    areas: Mapping[tuple, tuple[int, int, int, int]] = field(default_factory=dict)

    def active(self, ref: BoundReference) -> bool:
        return self.run.active(ref, self.sigma)

    def told_chunks(self, options: Mapping) -> tuple[bool, ...]:
        return tuple(self.told[index] for index in options.get("cond_or_uncond") or [0])

    def keys_values(self, ref, index: int, query: torch.Tensor) -> KeysValues:
        return self.run.keys_values(ref, index, query.dtype, query.device)

    def views(self, options: Mapping, batch: int, hw: tuple[int, int]) -> tuple[View, ...]:
        """What each conditioning of a batch of latents of size `hw` sees.

        Raises:
            SceneError: the model is handed something whose place or number nobody says.
        """
        indices = options.get("cond_or_uncond") or [0]
        uuids = options.get("uuids") or [None] * len(indices)
        parts = [self.run.part(self.areas.get(at), hw) for at in zip(indices, uuids, strict=True)]
        frames, total = frames_seen(options, batch // len(indices))
        if self.run.frames not in (None, total):
            raise IPAdapterError(
                f"The model was handed {total} of {self.run.frames} latents, and nobody says "
                "which: remove the node that splits the batch, or use frame_count."
            )
        return tuple(View(frames, total, hw, part) for part in parts)

    def mask(
        self, ref: BoundReference, query: torch.Tensor, views: Sequence[View], options: Mapping
    ) -> torch.Tensor:
        """(chunks * frames, N, 1) or (1, N, 1): the mask of `ref` for this batch."""
        grid = _grid(query.shape[1], views[0].hw, options)
        masks = [self.run.mask(ref, grid, view, query) for view in views]
        if all(mask is masks[0] for mask in masks) and masks[0].shape[0] == 1:
            return masks[0].unsqueeze(2)
        chosen = [rows_for(mask, view, "masks") for mask, view in zip(masks, views, strict=True)]
        frames = len(views[0].frames)
        return torch.cat([mask.expand(frames, -1) for mask in chosen]).unsqueeze(2)


class BareRun(ReferenceRun):
    """For a model that is called without a guider: nothing is kept, the batch is the picture."""

    def __init__(self, latent_hw: tuple[int, int]):
        self.references = ()
        self.frames = None
        self.named = None
        self.latent_hw = latent_hw
        self._sigmas = {}

    def keys_values(self, ref, index, dtype, device) -> KeysValues:
        return ref.keys_values(index, dtype, device)

    def mask(self, ref, grid, view, like):
        return _on_grid(ref, grid, view).to(like)


def call_of(options: Mapping, hw: tuple[int, int]) -> Call:
    """The `Call` that a layer, or a ControlNet, handed latents of size `hw` is part of.

    Without a guider, or past one that asks the model by itself, conditionings are told apart by
    their id where a run is known, else by ComfyUI's plain order: 0 is positive.
    """
    known = options.get(KEY)
    if isinstance(known, Call):
        return known
    indices = options.get("cond_or_uncond") or [0]
    run = known if isinstance(known, ReferenceRun) else BareRun(hw)
    told = [index == 0 for index in range(max(indices) + 1)]
    named = getattr(getattr(run, "guider", None), "conds", {})
    for index, uuid in zip(indices, options.get("uuids") or (), strict=False):
        known_by_id = told_by_id(uuid, named)
        if known_by_id is not None:
            told[index] = known_by_id
    sigmas = options.get("sigmas")
    sigma = None if sigmas is None else float(sigmas.flatten()[0])
    return Call(run, sigma, tuple(told))


def _on_grid(ref: BoundReference, grid: tuple[int, int, int | None], view: View) -> torch.Tensor:
    rows, columns, cell = grid
    return mask_tokens(ref.mask, (rows, columns), view.canvas_hw, view.area, cell)


def _area(area: Sequence[int], latent_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    half = len(area) // 2
    height, width, top, left = (int(value) for value in (*area[:2], *area[half : half + 2]))
    return min(height, latent_hw[0] - top), min(width, latent_hw[1] - left), top, left


def _grid(tokens: int, crop: tuple[int, int], options: Mapping) -> tuple[int, int, int | None]:
    exact = token_grid(tokens, *crop)
    shape = options.get("activations_shape")
    if shape is not None and int(shape[-2]) * int(shape[-1]) == tokens:
        rows, columns = int(shape[-2]), int(shape[-1])
        return exact if exact and exact[:2] == (rows, columns) else (rows, columns, None)
    if exact is None:
        raise IPAdapterError(
            f"A mask of {pixels(crop)} cannot be laid out on {tokens} attention tokens: another "
            "node changes the attention of this model; remove it or the mask."
        )
    return exact
