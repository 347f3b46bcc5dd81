"""Projectors against the ones diffusers makes of the same files."""

import pytest
import torch

from conditioning.ip_adapter import (
    IPAdapterError,
    ReferenceEmbeds,
    build_adapter,
    check_features,
    check_images,
    inspect_adapter,
    pad_to_square,
    project_tokens,
)
from tests.unit.conditioning.test_ip_adapter_weights import base, full, pairs, plus


def oracle(proj):
    from diffusers import UNet2DConditionModel

    convert = UNet2DConditionModel._convert_ip_adapter_image_proj_to_diffusers
    return convert(None, proj, low_cpu_mem_usage=False).eval().requires_grad_(False)


def random(state, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(v.shape, generator=generator) * 0.2 for k, v in state.items()}


# diffusers knows four layers only, and gives every layer as many heads as the first.
CASES = {
    "base": (base(32, 24), (3, 32)),
    "plus": (plus(32, 24, hidden=96, tokens=6, depth=4), (3, 11, 32)),
    "full": (full(32, 24), (3, 11, 32)),
}


@pytest.mark.parametrize("kind", CASES)
def test_projectors_equal_diffusers(kind):
    shapes, size = CASES[kind]
    proj = random(shapes)
    adapter = {"image_proj": proj, "ip_adapter": pairs(context=24)}
    module = build_adapter(adapter, inspect_adapter(adapter))
    features = torch.randn(size, generator=torch.Generator().manual_seed(1))
    ours, theirs = module.tokens(features), oracle(proj)(features)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    absent = torch.zeros(size)
    assert (module.tokens(absent) - oracle(proj)(absent)).abs().max() <= 1e-5


def test_the_absence_of_a_base_reference_is_not_nothing():
    proj = random(base(32, 24))
    adapter = {"image_proj": proj, "ip_adapter": pairs(context=24)}
    tokens = build_adapter(adapter, inspect_adapter(adapter)).tokens(torch.zeros(1, 32))
    bias = proj["proj.bias"].reshape(4, 24)
    expected = torch.nn.functional.layer_norm(bias, (24,), proj["norm.weight"], proj["norm.bias"])
    assert torch.allclose(tokens[0], expected, atol=1e-6) and tokens.abs().max() > 0.1


def tokens_of(features, **options):
    adapter = {"image_proj": random(base(32, 24)), "ip_adapter": pairs(context=24)}
    module = build_adapter(adapter, inspect_adapter(adapter))
    embeds = ReferenceEmbeds(features, torch.zeros(1, 32), "image_embeds")
    return module, project_tokens(module, embeds, **options)


def test_joining_pictures():
    features = torch.randn(3, 32)
    module, joined = tokens_of(features, combine="concat", per_frame=False)
    assert joined.positive.shape == joined.negative.shape == (1, 12, 24)
    assert torch.allclose(joined.positive[0, 4:8], module.tokens(features)[1], atol=1e-6)
    assert torch.equal(joined.negative[0, :4], joined.negative[0, 8:])
    module, blended = tokens_of(features, combine="average", per_frame=False)
    assert torch.allclose(blended.positive, module.tokens(features.mean(0, keepdim=True)))
    module, frames = tokens_of(features, combine="concat", per_frame=True)
    assert frames.positive.shape == (3, 4, 24) and frames.negative.shape == (1, 4, 24)
    assert frames.frames == 3


@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (7, 40), (21, 20)])
def test_tall_and_wide_pictures_keep_their_sides(shape):
    images = torch.rand(2, *shape, 3)
    square = pad_to_square(images, (0.5, 0.4, 0.3))
    side = max(shape)
    assert square.shape == (2, side, side, 3)
    top, left = (side - shape[0]) // 2, (side - shape[1]) // 2
    inner = square[:, top : top + shape[0], left : left + shape[1]]
    assert torch.equal(inner, images)
    outside = square.sum(dim=(1, 2)) - images.sum(dim=(1, 2))
    count = side * side - shape[0] * shape[1]
    assert torch.allclose(outside, torch.tensor([0.5, 0.4, 0.3]) * count, rtol=1e-4)
    squares = torch.rand(1, 8, 8, 3)
    assert pad_to_square(squares, (0, 0, 0)) is squares


def test_pictures_are_checked():
    assert check_images(torch.full((1, 2, 2, 4), 1.5)).shape == (1, 2, 2, 3)
    assert check_images(torch.full((1, 2, 2, 3), float("nan"))).max() == 0
    for wrong in (torch.zeros(2, 2, 3), torch.zeros(1, 2, 2, 1), torch.zeros(0, 2, 2, 3), None):
        with pytest.raises(IPAdapterError, match=r"pictures, height, width, 3"):
            check_images(wrong)


@pytest.mark.parametrize(
    ("proj", "given", "names"),
    [
        (plus(1280), torch.zeros(1, 257, 1664), ("CLIP-ViT-H-14", "CLIP-ViT-bigG-14")),
        (plus(1664), torch.zeros(1, 257, 1280), ("CLIP-ViT-bigG-14", "CLIP-ViT-H-14")),
        (base(1024), torch.zeros(1, 1280), ("CLIP-ViT-H-14", "CLIP-ViT-bigG-14")),
        (base(1280), torch.zeros(1, 768), ("CLIP-ViT-bigG-14", "CLIP-ViT-L-14")),
        (base(1024), None, ("CLIP-ViT-H-14", "none that makes it")),
        (
            plus(777),
            torch.zeros(1, 9, 5),
            ("an image encoder of width 777", "an image encoder of width 5"),
        ),
    ],
)
def test_a_wrong_encoder_is_named_with_the_right_one(proj, given, names):
    spec = inspect_adapter({"image_proj": proj, "ip_adapter": pairs()}, "a.safetensors")
    with pytest.raises(IPAdapterError) as caught:
        check_features(given, spec)
    needed, found = names
    assert f"'a.safetensors' was trained with {needed}" in str(caught.value)
    assert f"the CLIP vision model is {found}" in str(caught.value)
    assert "Load CLIP Vision" in str(caught.value)


def test_the_right_encoder_passes():
    spec = inspect_adapter({"image_proj": plus(1280), "ip_adapter": pairs()})
    check_features(torch.zeros(2, 257, 1280), spec)
