"""Which layers are trained: presets, name patterns, ranks and rates per block."""

import pytest
import torch

from training import JobError, parse_job
from training.adapter import add_adapter
from training.targets import TARGETS, matches, plan_layers, target_modules, text_modules

from .test_adapter import small_unet


def make_job(**adapter):
    base = {"base": {"checkpoint": "-"}, "dataset": {"folder": "-"}}
    return parse_job(base | {"adapter": adapter})


def test_presets_of_full_sdxl(sdxl_unet):
    counts = {name: len(target_modules(sdxl_unet, name)) for name in TARGETS}
    # resnets: 17 with 2 convolutions and a time projection, 11 with a shortcut; 4 samplers
    assert counts == {
        "transformer": 722,
        "attention": 560,
        "all": 722 + 17 * 3 + 11 + 4,
        "content": 102,
        "style": 102,
    }
    for name, block in (("content", "attentions.0"), ("style", "attentions.1")):
        names = target_modules(sdxl_unet, name)
        assert all(n.startswith(f"up_blocks.0.{block}.") for n in names)
        layers = [sdxl_unet.get_submodule(n) for n in names]
        assert all(isinstance(layer, torch.nn.Linear) for layer in layers)


def test_text_encoders_of_full_sdxl():
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sizes = {
        "CLIP-L": (12, 768, CLIPTextModel, 72),
        "bigG": (32, 1280, CLIPTextModelWithProjection, 192),
    }
    for layers, width, kind, count in sizes.values():
        with torch.device("meta"):
            model = kind(CLIPTextConfig(num_hidden_layers=layers, hidden_size=width))
        assert len(text_modules(model)) == count


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("attn2", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k", True),
        ("up_blocks.0.attentions.1", "up_blocks.0.attentions.1.proj_in", True),
        ("up_blocks.0.attentions.1", "up_blocks.0.attentions.10.proj_in", False),
        ("attentions.1", "up_blocks.0.attentions.1.proj_in", True),
        ("down_blocks.*.ff", "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2", True),
        ("to_?", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k", True),
        ("attn", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k", False),
        ("text_encoder", "text_encoder_2.text_model.encoder.layers.0.mlp.fc1", False),
        ("*", "conv_in", True),
    ],
)
def test_patterns_fit_whole_parts_of_a_name(pattern, name, expected):
    assert matches(pattern, name) is expected


def test_ranks_and_rates_per_block(tiny_unet_config):
    job = make_job(
        rank=4,
        block_ranks={"mid_block": 8, "mid_block.*.attn2": 2, "down_blocks.1.attentions": 0},
        block_rates={"attn1": 0.5, "up_blocks": 2.0},
    )
    adapter = add_adapter(small_unet(tiny_unet_config), job)
    for plan in adapter.plans:
        expected = 4
        if plan.key.startswith("mid_block"):
            expected = 2 if ".attn2." in plan.key else 8
        tensors = adapter.kind.tensors(adapter.layer(plan))
        assert plan.rank == expected == len(tensors["down"])
        assert plan.alpha == expected and adapter.layer(plan).scaling["default"] == 1.0
        rate = 2.0 if plan.key.startswith("up_blocks") else 0.5 if ".attn1." in plan.key else 1.0
        assert plan.rate == rate
    assert not any(name.startswith("down_blocks") for name in adapter.names)
    groups = {g["factor"]: len(g["params"]) for g in adapter.groups()}
    assert set(groups) == {0.5, 1.0, 2.0}
    assert sum(groups.values()) == 2 * len(adapter.plans) == len(adapter.parameters())


def test_given_alpha_holds_for_every_rank(tiny_unet_config):
    job = make_job(rank=4, alpha=2.0, block_ranks={"mid_block": 8})
    adapter = add_adapter(small_unet(tiny_unet_config), job)
    scales = {p.rank: adapter.layer(p).scaling["default"] for p in adapter.plans}
    assert scales == {4: 0.5, 8: 0.25}


def test_a_rate_moves_its_block_that_much_further(make_loop):
    """AdamW's first step is as long as the rate."""
    changes = {
        "adapter": {"block_rates": {"mid_block": 0.25}},
        "optimizer": {"weight_decay": 0.0, "max_grad_norm": 0},
        "schedule": {"kind": "constant"},
    }
    _, adapter, _, loop = make_loop(changes)
    before = {k: v.clone() for k, v in adapter.state().items()}
    loop.step(0)
    longest = {True: 0.0, False: 0.0}
    for key, value in adapter.state().items():
        step = float((value - before[key]).abs().max())
        longest[key.startswith("mid_block")] = max(longest[key.startswith("mid_block")], step)
    assert longest[False] == pytest.approx(1e-3, rel=0.02)
    assert longest[True] == pytest.approx(0.25e-3, rel=0.02)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"layers": ["up_blocks.9"]}, r"'adapter.layers': 'up_blocks.9' matches no .*'up_blocks"),
        ({"block_ranks": {"atn2": 4}}, r"'adapter.block_ranks': 'atn2' matches no"),
        ({"block_rates": {"text_encoder": 2.0}}, "'adapter.block_rates': 'text_encoder' matches"),
        ({"block_ranks": {"*": 0}}, "matches no layer of this UNet"),
        ({"block_ranks": {"mid_block": 999}}, "block_ranks.mid_block.*512"),
        ({"block_rates": {"mid_block": 0}}, "block_rates.mid_block.*greater than 0"),
        ({"layers": ["a b"]}, "adapter.layers.0"),
        ({"targets": "everything"}, "adapter.targets"),
    ],
)
def test_mistakes_are_named(tiny_unet_config, adapter, message):
    with pytest.raises(JobError, match=message):
        job = make_job(**adapter)
        plan_layers({"unet": small_unet(tiny_unet_config)}, job.adapter)
