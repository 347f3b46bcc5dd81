"""Masked loss, weights of pictures, and where masks come from."""

import numpy as np
import pytest
import torch
from PIL import Image

from training import DatasetSettings, merge
from training.buckets import place_mask, plan_buckets
from training.dataset import read_dataset
from training.masks import latent_mask, loss_weights
from training.rng import generator


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path)


def noise(height, width, seed=0, channels=3):
    return np.random.default_rng(seed).integers(1, 255, (height, width, channels), dtype=np.uint8)


def half(height, width):
    """White on the left half."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    return mask


NAMES = ["a-mask.png", "a.mask.png", "a-masklabel.png", "masks/a.png"]


@pytest.mark.parametrize("name", NAMES)
def test_where_mask_files_lie(tmp_path, name):
    save(tmp_path / "a.png", noise(64, 64))
    save(tmp_path / name, half(64, 64))
    (item,) = read_dataset(tmp_path).items
    assert item.mask_path == tmp_path / name and not item.mask_inverted


def test_a_picture_may_be_called_mask(tmp_path):
    save(tmp_path / "carnival-mask.png", noise(64, 64))
    assert [i.path.name for i in read_dataset(tmp_path).items] == ["carnival-mask.png"]


def test_roles_say_which_part_is_learnt(tmp_path):
    for category in ("characters", "attire", "backgrounds"):
        save(tmp_path / category / "a.png", noise(64, 64))
        save(tmp_path / category / "a-mask.png", half(64, 64))
    dataset = read_dataset(tmp_path)
    inverted = {i.category: i.mask_inverted for i in dataset.items}
    assert inverted == {"characters": False, "attire": False, "backgrounds": True}
    assert "backgrounds: 1, no trigger, 1 mask (black is learnt)" in dataset.report()
    for item in dataset.items:
        (place,) = plan_buckets([item], 64, step=8)
        left, right = place_mask(place)[:, :32], place_mask(place)[:, 32:]
        assert (left == (not item.mask_inverted)).all() and (right == item.mask_inverted).all()
    values = {"masks": "black", "categories": {"backgrounds": {"masks": "white"}}}
    turned = read_dataset(tmp_path, DatasetSettings.model_validate(values))
    assert {i.category: i.mask_inverted for i in turned.items} == {
        "characters": True,
        "attire": True,
        "backgrounds": False,
    }
    assert turned.digest != dataset.digest
    without = read_dataset(tmp_path, DatasetSettings(masks="ignore"))
    assert all(i.mask_path is None for i in without.items)


def test_transparency_as_a_mask(tmp_path):
    pixels = noise(64, 64, channels=4)
    pixels[..., 3] = half(64, 64)
    save(tmp_path / "a.png", pixels)
    save(tmp_path / "b.png", noise(64, 64, 1))
    assert all(i.mask_path is None for i in read_dataset(tmp_path).items)
    a, b = read_dataset(tmp_path, DatasetSettings(alpha_masks=True)).items
    assert a.mask_path == a.path and b.mask_path is None
    (place,) = plan_buckets([a], 64, step=8)
    assert torch.equal(place_mask(place), torch.from_numpy(half(64, 64)).float() / 255)
    save(tmp_path / "a-mask.png", 255 - half(64, 64))  # a file comes before it
    a, _ = read_dataset(tmp_path, DatasetSettings(alpha_masks=True)).items
    assert a.mask_path.name == "a-mask.png"


@pytest.mark.parametrize(("colour", "category"), [(0, "attire"), (255, "backgrounds")])
def test_a_mask_that_teaches_nothing_is_named(tmp_path, colour, category):
    save(tmp_path / category / "a.png", noise(64, 64))
    save(tmp_path / category / "a-mask.png", np.full((64, 64), colour, np.uint8))
    dataset = read_dataset(tmp_path)
    assert dataset.items[0].mask_path is None
    word = "black" if colour == 0 else "white"
    assert any(f"its mask is all {word}" in issue.message for issue in dataset.issues)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop", ["top", "center", (0, 2)])
def test_mask_follows_crop_flip_and_resize(tmp_path, crop, flip):
    """A mask equal to the picture stays equal to it, and its latent is the mean of 8 x 8 pixels."""
    from dataclasses import replace

    from training.buckets import place_image

    gray = noise(300, 700, channels=1)[..., 0]
    save(tmp_path / "a.png", gray)
    save(tmp_path / "a-mask.png", gray)
    (item,) = read_dataset(tmp_path).items
    (place,) = plan_buckets([item], 128, step=16)
    place = replace(place.with_crop(crop), flip=flip)
    picture = (place_image(place)[0] + 1) / 2
    torch.testing.assert_close(place_mask(place), picture, atol=1e-6, rtol=0)
    width, height = place.bucket_size
    blocks = picture.reshape(height // 8, 8, width // 8, 8).mean(dim=(1, 3))
    torch.testing.assert_close(latent_mask(place)[0], blocks, atol=1e-6, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
def test_the_crop_can_follow_the_subject(tmp_path, flip):
    """A subject at the edge of a wide picture is cut off by every other crop."""
    mask = np.zeros((100, 900), np.uint8)
    mask[40:60, 700:800] = 255
    for category in ("characters", "backgrounds"):
        save(tmp_path / category / "a.png", noise(100, 900))
        save(tmp_path / category / "a-mask.png", mask)
    person, place = read_dataset(tmp_path).items
    assert person.focus == (750 / 900, 0.5) and place.focus == (0.5, 0.5)
    sizes = {"step": 16, "min_size": 64, "max_size": 128, "upscale": True}  # none of its own
    found = plan_buckets([person], 96, **sizes, crop="subject")[0]
    if flip:
        from training.augment import PictureVariants
        from training.data_settings import AugmentSettings

        found = PictureVariants(AugmentSettings(flip=True), "subject", 0).of(found)[1]
    seen = place_mask(found)
    assert seen.sum() == pytest.approx(100 * 20 * (found.resized[0] / 900) ** 2, rel=0.1)
    across = seen.sum(0).nonzero().float().mean()
    assert across == pytest.approx(found.bucket_size[0] / 2, abs=2)
    center = plan_buckets([person], 96, **sizes)[0]
    assert place_mask(center).sum() == 0


def test_uniform_masks_weigh_nothing():
    for value in (1.0, 0.5, 0.1, 1 / 3):
        for unmasked in (0.0, 0.1, 0.7):
            weights = loss_weights(torch.full((1, 7, 13), value), unmasked)
            assert torch.equal(weights, torch.ones(1, 7, 13))
    assert torch.equal(loss_weights(torch.zeros(1, 4, 4), 0.0), torch.zeros(1, 4, 4))
    assert torch.equal(loss_weights(torch.zeros(1, 4, 4), 0.1), torch.ones(1, 4, 4))
    mixed = loss_weights(torch.tensor([[[1.0, 0.0, 0.5, 0.0]]]), 0.2)
    torch.testing.assert_close(mixed, torch.tensor([[[1.0, 0.2, 0.6, 0.2]]]) / 0.5)


# ------------------------------------------------------------------------------------- training


@pytest.fixture
def masked_set(tmp_path):
    """Pictures of one size: a, b with half masks, c without, d with an even grey one."""
    folder = tmp_path / "masked"
    for seed, name in enumerate("abcd"):
        save(folder / f"{name}.png", noise(64, 64, seed))
        (folder / f"{name}.txt").write_text("x", "utf-8")
    save(folder / "a-mask.png", half(64, 64))
    save(folder / "b-mask.png", 255 - half(64, 64))
    save(folder / "d-mask.png", np.full((64, 64), 128, np.uint8))
    return {"dataset": {"folder": str(folder), "trigger": ""}, "batch": {"size": 4}}


def losses(loop, data, indices, draw_seed=0):
    """Loss of each picture with the same noise per picture."""
    batch = data.batch(indices, 0)
    draws = [
        loop._objective.draw(batch.latents[:1], generator(draw_seed, "test", i)) for i in indices
    ]
    draw = type(draws[0])(
        *(
            None if parts[0] is None else torch.cat(parts)
            for parts in ([getattr(d, f) for d in draws] for f in ("noise", "timesteps", "added"))
        )
    )
    unet = loop._adapter.unet
    with torch.no_grad():
        return loop._objective.losses(unet, batch, draw, torch.float32), batch, draw


def test_masked_loss_is_the_weighted_mean(make_loop, masked_set):
    _, _, data, loop = make_loop(merge(masked_set, {"masks": {"unmasked_weight": 0.0}}))
    found, batch, draw = losses(loop, data, [0, 1, 2, 3])
    unet = loop._adapter.unet
    with torch.no_grad():
        predicted, target = loop._objective.predict(unet, batch, draw, torch.float32)
    squares = (predicted - target).square()
    expected = [
        squares[0, :, :, :4].mean(),
        squares[1, :, :, 4:].mean(),
        squares[2].mean(),
        squares[3].mean(),
    ]
    torch.testing.assert_close(found, torch.stack(expected))


def test_a_uniform_mask_is_none_and_alone_equals_mixed(make_loop, masked_set):
    _, _, data, loop = make_loop(masked_set)
    together, batch, _ = losses(loop, data, [0, 1, 2, 3])
    assert torch.equal(batch.mask[2], torch.ones(1, 8, 8))
    assert torch.equal(batch.mask[3], torch.ones(1, 8, 8))
    alone = [losses(loop, data, [i])[0] for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=1e-5)
    assert losses(loop, data, [2])[1].mask is None


def test_what_is_masked_has_no_gradient(make_loop, masked_set):
    """With weight 0 the target outside of the mask can be anything."""
    _, _, data, loop = make_loop(merge(masked_set, {"masks": {"unmasked_weight": 0.0}}))
    batch = data.batch([0], 0)
    values = torch.randn(1, 4, 8, 8, requires_grad=True)
    batch.average(values.square()).sum().backward()
    assert values.grad[..., 4:].abs().max() == 0 and values.grad[..., :4].abs().min() > 0


def test_masks_change_what_is_learnt_and_can_be_ignored(make_loop, masked_set):
    def trained(changes):
        _, adapter, _, loop = make_loop(merge(masked_set, changes))
        loop.step(0)
        return [p.detach().clone() for p in adapter.parameters()]

    full = trained({})
    ignored = trained({"masks": {"unmasked_chance": 1.0}})
    removed = trained({"dataset": {"masks": "ignore"}})
    assert any(not torch.equal(a, b) for a, b in zip(full, removed, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ignored, removed, strict=True))


def test_weights_scale_the_loss_of_their_pictures(make_loop, tmp_path):
    for category in ("attire", "characters"):
        save(tmp_path / category / "a.png", noise(64, 64))
        (tmp_path / category / "a.txt").write_text("x", "utf-8")
    plain = {"dataset": {"folder": str(tmp_path), "trigger": "", "template": "{caption}"}}
    weighted = merge(plain, {"dataset": {"weight": 2, "categories": {"attire": {"weight": 0.25}}}})
    found = []
    for changes in (plain, weighted):
        _, _, data, loop = make_loop(changes)
        found.append(losses(loop, data, [0, 1])[0])
    torch.testing.assert_close(found[1], found[0] * torch.tensor([0.5, 2.0]))
    assert losses(loop, data, [0, 1])[1].weights.tolist() == [0.5, 2.0]
