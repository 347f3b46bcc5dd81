"""The attention patch: a stack of references on one cross attention, and how a model gets it.

Stacks are never changed by us: applying a reference makes new stacks in the new clone, and every
clone of a patched model gets stacks of its own. So no branch of a graph can see what another one
added, not even what nodes of other packs put on top through `add`.
"""

import comfy.ldm.modules.attention as comfy_attention
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ...conditioning.ip_adapter import AttentionLayer, KeysValues, add_reference_output
from .reference_run import (
    KEY,
    BoundReference,
    Call,
    ReferenceRun,
    call_of,
    references_in,
)
from .view import View, rows_for


class ReferenceStack:
    """Replaces the attention function of one text cross attention (ComfyUI `attn2` replacement).

    Attributes:
        layer: where it sits.
        references: what we add, in the order of application.
        base: a patch of another pack that was there before and still makes the base output.
    """

    def __init__(self, layer: AttentionLayer, references=(), base=None, guests=()):
        self.layer = layer
        self.references: tuple[BoundReference, ...] = tuple(references)
        self.base = base
        self._guests: list[tuple] = list(guests)

    def with_reference(self, reference: BoundReference) -> "ReferenceStack":
        return ReferenceStack(self.layer, (*self.references, reference), self.base, self._guests)

    def copy(self) -> "ReferenceStack":
        return ReferenceStack(self.layer, self.references, self.base, self._guests)

    def __call__(self, q, k, v, options):
        """(chunks * frames, N, C) queries and text keys/values -> attention output, same shape."""

        def attend(query, keys, values):
            return comfy_attention.optimized_attention(
                query,
                keys,
                values,
                options["n_heads"],
                attn_precision=options.get("attn_precision"),
                transformer_options=options,
            )

        out = attend(q, k, v) if self.base is None else self.base(q, k, v, options)
        if self.references:
            out = self._add_references(out, q, attend, options)
        return self._add_guests(out, q, k, v, options)

    def _add_references(self, out, q, attend, options):
        hw = tuple(int(size) for size in options.get("original_shape", (0, 0))[-2:])
        call = call_of(options, hw)
        told = call.told_chunks(options)
        views: tuple[View, ...] = ()
        for ref in self.references:
            if not call.active(ref):
                continue
            cached = call.keys_values(ref, self.layer.index, q)
            if not views and (ref.per_frame or ref.mask is not None):
                views = call.views(options, q.shape[0], hw)
            if ref.per_frame:
                cached = _frames_of(cached, views[0])
            mask = None if ref.mask is None else call.mask(ref, q, views, options)
            out = add_reference_output(out, q, cached, told, attend, mask)
        return out

    def _add_guests(self, out, q, k, v, options):
        if not self._guests:
            return out
        sigmas = options.get("sigmas")
        sigma = float("inf") if sigmas is None else float(sigmas.flatten()[0])
        for callback, kwargs in self._guests:
            if kwargs.get("sigma_end", 0.0) <= sigma <= kwargs.get("sigma_start", float("inf")):
                out = out + callback(out, q, k, v, options, **kwargs)
        return out.to(q.dtype)

    # What ComfyUI and other packs call on a patch.

    def add(self, callback, **kwargs) -> None:
        """Let a node of another pack add `callback(out, q, k, v, options, **kwargs)` to the output.

        The IP-Adapter, InstantID and PuLID packs call this on whatever patch they find.
        """
        self._guests.append((callback, kwargs))

    def models(self) -> list:
        """Models ComfyUI keeps loaded with ours: adapters whose keys and values are not kept."""
        found = dict.fromkeys(ref.weights.patcher for ref in self.references if ref.keeps_loaded)
        theirs = self.base.models() if hasattr(self.base, "models") else []
        return [*found, *theirs]

    def to(self, device_or_dtype) -> "ReferenceStack":
        """Tokens follow the queries by themselves; only a foreign patch may need moving."""
        if not hasattr(self.base, "to"):
            return self
        moved = self.base.to(device_or_dtype)
        if moved is self.base:
            return self
        return ReferenceStack(self.layer, self.references, moved, self._guests)

    def cleanup(self) -> None:
        if hasattr(self.base, "cleanup"):
            self.base.cleanup()


def _frames_of(cached: KeysValues, view: View) -> KeysValues:
    positive = tuple(rows_for(tensor, view, "reference pictures") for tensor in cached.positive)
    return KeysValues(positive, cached.negative)


def add_reference(model, reference: BoundReference, layers) -> object:
    """A clone of `model` with `reference` on every layer that it has a strength for."""
    patched = model.clone()
    replaced = patched.model_options["transformer_options"].get("patches_replace", {})
    existing = replaced.get("attn2", {})
    for layer in layers:
        if layer.index not in reference.layer_weights:
            continue
        current = existing.get(layer.key, existing.get(layer.key[:2]))
        if not isinstance(current, ReferenceStack):
            current = ReferenceStack(layer, base=current)
        patched.set_model_attn2_replace(current.with_reference(reference), *layer.key)
    return followed(patched)


def followed(patched):
    """The same model, whose runs are known to our references and to the ControlNets of a scene."""
    if not patched.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _outer_sample)
        patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, _calc_cond_batch)
        patched.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, _own_stacks)
    return patched


def stacks_of(model) -> list[ReferenceStack]:
    """The stacks of a model, one for each patched layer."""
    replaced = model.model_options["transformer_options"].get("patches_replace", {})
    return [p for p in replaced.get("attn2", {}).values() if isinstance(p, ReferenceStack)]


def _own_stacks(_model, clone) -> None:
    replaced = clone.model_options["transformer_options"].get("patches_replace", {})
    attn2 = replaced.get("attn2", {})
    for key, patch in attn2.items():
        if isinstance(patch, ReferenceStack):
            attn2[key] = patch.copy()


def _outer_sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
    """Around a whole run: check frame counts, project keys and values, forget them afterwards."""
    guider = executor.class_obj
    run = ReferenceRun(guider, references_in(guider.model_options), noise.shape)
    run.check()
    model = guider.model_patcher
    run.prepare(sigmas, _inference_dtype(model), torch.device(model.load_device))
    # The guider works on its own copy of the model options until the run is over.
    options = guider.model_options["transformer_options"]
    options[KEY] = run
    try:
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    finally:
        options.pop(KEY, None)
        run.close()


def _inference_dtype(model) -> torch.dtype:
    inner = model.model
    return inner.get_dtype_inference() if hasattr(inner, "get_dtype_inference") else torch.float32


def _calc_cond_batch(executor, model, conds, x_in, timestep, model_options):
    """Around each batch of conditionings: note which of them are told the references."""
    options = model_options.get("transformer_options", {})
    known = options.get(KEY)
    run = known.run if isinstance(known, Call) else known
    if isinstance(run, ReferenceRun):
        options = {**options, KEY: run.call(conds, timestep)}
        model_options = {**model_options, "transformer_options": options}
    return executor(model, conds, x_in, timestep, model_options)
