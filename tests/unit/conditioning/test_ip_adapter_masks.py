"""Where attention tokens lie, and what part of a mask each of them stands for."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conditioning.ip_adapter import IPAdapterError, check_mask, mask_tokens, token_grid
from conditioning.ip_adapter.masks import cell_weights


def halved(size: int, times: int) -> int:
    """What stride-2 convolutions with padding 1 leave: asked of a real one."""
    x = torch.zeros(1, 1, size)
    for _ in range(times):
        x = F.conv1d(x, torch.zeros(1, 1, 3), stride=2, padding=1)
    return x.shape[-1]


def test_grids_of_a_unet_are_found_for_every_size():
    for height in range(8, 48):
        for width in range(8, 48):
            for times in range(4):
                rows, columns = halved(height, times), halved(width, times)
                assert token_grid(rows * columns, height, width) == (rows, columns, 2**times)


def test_no_grid_for_other_counts():
    assert token_grid(255, 16, 16) is None
    assert token_grid(0, 16, 16) is None
    assert token_grid(1, 1, 1) == (1, 1, 1)
    assert token_grid(2, 1, 1) is None


def test_common_pictures_agree_with_plain_block_means():
    mask = torch.rand(2, 64, 96)
    for cell in (1, 2, 4):
        ours = mask_tokens(mask, (64 // cell, 96 // cell), (64, 96), cell=cell)
        assert torch.allclose(ours, F.avg_pool2d(mask[:, None], cell).flatten(1), atol=1e-6)
    small = mask_tokens(mask, (16, 24), (32, 48), cell=2)
    assert torch.allclose(small, F.avg_pool2d(mask[:, None], 4).flatten(1), atol=1e-6)


@pytest.mark.parametrize("size", [5, 31, 64, 100])
@pytest.mark.parametrize("latents", [5, 17, 32])
@pytest.mark.parametrize("cell", [1, 2, 4, None])
def test_cells_weigh_pixels_by_overlap(size, latents, cell):
    cells = math.ceil(latents / cell) if cell else 7
    step = (cell or latents / cells) * size / latents
    weights = cell_weights(cells, size, 0.0, step, float(size)).numpy()
    fine = 997  # samples for each mask pixel: the overlap by counting
    places = (np.arange(size * fine) + 0.5) / fine
    owner = np.minimum((places / step).astype(int), cells - 1)
    counted = np.zeros((cells, size))
    np.add.at(counted, (owner, places.astype(int)), 1)
    counted /= counted.sum(axis=1, keepdims=True)
    assert np.abs(weights - counted).max() < 2 / fine
    assert np.allclose(weights.sum(axis=1), 1)


@pytest.mark.parametrize("latent", [(16, 16), (17, 23), (129, 97)])
def test_masks_that_share_a_picture_still_do_so_on_tokens(latent):
    parts = torch.rand(4, 50, 30).softmax(dim=0)
    for cell in (1, 2, 4):
        grid = tuple(math.ceil(size / cell) for size in latent)
        tokens = mask_tokens(parts, grid, latent, cell=cell)
        assert torch.allclose(tokens.sum(dim=0), torch.ones(grid[0] * grid[1]), atol=1e-5)


def test_a_crop_sees_its_own_part():
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:6, 4:8] = 1
    inside = mask_tokens(mask, (4, 4), (16, 16), area=(8, 8, 4, 8), cell=2)
    assert torch.equal(inside, torch.ones(1, 16))
    outside = mask_tokens(mask, (4, 4), (16, 16), area=(8, 8, 4, 0), cell=2)
    assert torch.equal(outside, torch.zeros(1, 16))
    border = mask_tokens(mask, (4, 4), (16, 16), area=(8, 8, 4, 7), cell=2)
    expected = torch.tensor([0.5, 1, 1, 1]).repeat(4)
    assert torch.allclose(border[0], expected)


def test_masks_are_checked():
    assert check_mask(torch.full((4, 5), 2.0)).shape == (1, 4, 5)
    assert check_mask(torch.full((2, 4, 5), 2.0)).max() == 1
    assert check_mask(torch.full((1, 2, 2), float("nan"))).max() == 0
    for wrong in (torch.zeros(1, 1, 2, 2), torch.zeros(3), torch.zeros(0, 2, 2), "mask"):
        with pytest.raises(IPAdapterError, match="frames, height, width"):
            check_mask(wrong)
