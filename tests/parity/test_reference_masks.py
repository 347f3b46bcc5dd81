"""Masks on references: each token gets the mean of the mask over exactly the cell it stands for."""

import importlib

import numpy as np
import pytest
import torch

from tests.parity import tiny

CLOSE = 2e-6


class Watched:
    """Stands in for a stack; checks what the mask did to the reference's contribution."""

    def __init__(self, masked, unmasked, expected):
        self.masked, self.unmasked, self.expected = masked, unmasked, expected
        self.references = masked.references
        self.grids = []

    def __call__(self, q, k, v, options):
        base = type(self.masked)(self.masked.layer)(q, k, v, options)
        out = self.masked(q, k, v, options)
        full = self.unmasked(q, k, v, options) - base
        rows, columns = options["activations_shape"][-2:]
        assert rows * columns == q.shape[1]
        for row, chunk in enumerate(options["cond_or_uncond"]):
            frames = q.shape[0] // len(options["cond_or_uncond"])
            for frame in range(frames):
                place = row * frames + frame
                mask = self.expected(frame, options["uuids"][row], chunk, rows, columns, options)
                expected = full[place] * torch.from_numpy(mask).float().flatten()[:, None]
                error = (out[place] - base[place] - expected).abs().max() / full.abs().max()
                assert error <= CLOSE, (self.masked.layer.key, frame, float(error))
        self.grids.append((rows, columns))
        return out


def watch(t, mask, expected, **options):
    """A model with a masked reference, every layer of it compared with the unmasked reference."""
    images = tiny.pictures(1, seed=3)
    apply = t.runtime.apply_reference
    masked = apply(t.model, t.adapters["base"], t.vision, images, mask=mask, **options)
    unmasked = apply(t.model, t.adapters["base"], t.vision, images, **options)
    patches = masked.model_options["transformer_options"]["patches_replace"]["attn2"]
    others = unmasked.model_options["transformer_options"]["patches_replace"]["attn2"]
    watched = {key: Watched(patches[key], others[key], expected) for key in patches}
    patches.update(watched)
    return masked, watched


def means(mask: np.ndarray, rows, columns, latent_hw, cell, top=0, left=0, bottom=None, right=None):
    """The mean of a mask over each cell, pixel by pixel of a fine grid: an oracle by counting.

    The mask is blown up so that a latent is a whole number of fine pixels in both directions.
    """
    height, width = latent_hw
    fine = np.kron(mask, np.ones((height, width)))  # mask pixel -> height x width fine pixels
    ph, pw = mask.shape  # fine pixels for each latent
    out = np.zeros((rows, columns))
    for r in range(rows):
        for c in range(columns):
            y, x = top + r * cell, left + c * cell
            y1, x1 = min(y + cell, bottom or height), min(x + cell, right or width)
            out[r, c] = fine[y * ph : y1 * ph, x * pw : x1 * pw].mean()
    return out


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (9, 30), (13, 13)])
def test_every_size_of_latent(tiny_sdxl, size):
    mask = np.random.default_rng(0).random((12, 10))

    def expected(frame, uuid, chunk, rows, columns, options):
        cell = {-(-size[0] // n): n for n in (1, 2, 4)}[rows]
        assert columns == -(-size[1] // cell)
        return means(mask, rows, columns, size, cell)

    model, watched = watch(tiny_sdxl, torch.from_numpy(mask).float(), expected)
    tiny.sample(model, size=size, steps=1)
    grids = {w.grids[0] for w in watched.values()}
    assert grids == {(-(-size[0] // n), -(-size[1] // n)) for n in (2, 4)}


def test_a_mask_for_every_frame(tiny_sdxl):
    masks = np.random.default_rng(1).random((3, 8, 8))

    def expected(frame, uuid, chunk, rows, columns, options):
        return means(masks[frame], rows, columns, (16, 16), 16 // rows)

    model, watched = watch(tiny_sdxl, torch.from_numpy(masks).float(), expected)
    tiny.sample(model, frames=3, steps=1)
    assert all(w.grids for w in watched.values())


@pytest.mark.parametrize("size", [(16, 16), (17, 22)])
def test_prompts_with_an_area_see_their_part_of_the_mask(tiny_sdxl, size):
    import comfy.samplers

    mask = np.random.default_rng(2).random((6, 7))
    text, extra = tiny.conditioning(11)[0]
    places = {"upper": (8, 12, 1, 3), "lower": (8, 12, 5, 4)}
    prompts = [[text, {**extra, "area": area}] for area in places.values()]
    crops = []

    def expected(frame, uuid, chunk, rows, columns, options):
        crop = tuple(options["original_shape"][-2:])
        if crop == size:
            top, left, (bottom, right) = 0, 0, size
        else:
            height, width, top, left = by_uuid[uuid]
            bottom, right = top + height, left + width
            crops.append((uuid, chunk))
        cell = -(-(bottom - top) // rows)
        return means(mask, rows, columns, size, cell, top, left, bottom, right)

    model, _ = watch(tiny_sdxl, torch.from_numpy(mask).float(), expected)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds([*prompts, *tiny.conditioning(14)], tiny.conditioning(12))
    guider.set_cfg(3.0)
    by_uuid = dict(
        zip([c["uuid"] for c in guider.original_conds["positive"]], places.values(), strict=False)
    )
    tiny.sample(model, guider, size=size, steps=1)
    assert len(set(crops)) == 4  # two areas, each asked on both sides


def test_a_part_of_unknown_place_is_refused(tiny_sdxl):
    model = tiny_sdxl.runtime.apply_reference(
        tiny_sdxl.model,
        tiny_sdxl.adapters["base"],
        tiny_sdxl.vision,
        tiny.pictures(1, seed=3),
        mask=torch.rand(8, 8),
    )

    def tiles(apply_model, args):
        """What tiling samplers do: hand the model a part of the picture at a time."""
        half = args["input"].shape[-1] // 2
        parts = args["input"].split(half, dim=-1)
        return torch.cat([apply_model(p, args["timestep"], **args["c"]) for p in parts], dim=-1)

    model.set_model_unet_function_wrapper(tiles)
    with pytest.raises(ValueError, match="128x128, but the model was handed a part of 64x128"):
        tiny.sample(model)


def test_tokens_that_fit_no_grid_are_refused(tiny_sdxl):
    module = importlib.import_module(
        tiny_sdxl.runtime.__name__.replace(".ip_adapter", ".reference_run")
    )
    with pytest.raises(module.IPAdapterError, match="65 attention tokens"):
        module._grid(65, (16, 16), {})
    # A node that shrinks the picture inside the UNet says itself what it made of it.
    assert module._grid(35, (16, 16), {"activations_shape": [2, 64, 5, 7]}) == (5, 7, None)
    assert module._grid(64, (16, 16), {"activations_shape": [2, 64, 8, 8]}) == (8, 8, 2)
