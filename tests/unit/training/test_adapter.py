"""Which layers are adapted, how they start, and that they compute what PEFT computes."""

import pytest
import torch

from training import parse_job
from training.adapter import add_adapter, target_modules
from training.errors import JobError

NUMBERS = 42_557_440  # of rank 16 in all linear layers of the transformers


def make_job(**adapter):
    base = {"base": {"checkpoint": "-"}, "dataset": {"folder": "-"}}
    return parse_job(base | {"adapter": adapter, "seed": 3})


def small_unet(tiny_unet_config, seed=0, dtype=torch.float32):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(**tiny_unet_config).to(dtype)


def unet_inputs(dtype=torch.float32, batch=2):
    random = torch.Generator().manual_seed(5)
    return {
        "sample": torch.randn(batch, 4, 8, 6, generator=random).to(dtype),
        "timestep": torch.tensor([10, 700])[:batch],
        "encoder_hidden_states": torch.randn(batch, 77, 64, generator=random).to(dtype),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(batch, 32, generator=random).to(dtype),
            "time_ids": torch.tensor([[64.0, 48, 0, 0, 64, 48]] * batch),
        },
    }


def test_full_sdxl_has_the_targets_of_sd_scripts(sdxl_unet):
    unet = sdxl_unet
    names = target_modules(unet, "transformer")
    assert len(names) == len(set(names)) == 722
    attention = target_modules(unet, "attention")
    assert len(attention) == 560
    rank = 16
    layers = [unet.get_submodule(n) for n in names]
    assert sum(rank * (x.in_features + x.out_features) for x in layers) == NUMBERS
    small = sum(rank * (x.in_features + x.out_features) for x in map(unet.get_submodule, attention))
    assert round(small / 1e6, 1) == 23.2


def test_full_sdxl_is_injected_exactly_there(sdxl_config):
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**sdxl_config)
    adapter = add_adapter(unet, make_job(rank=16))
    trained = {n for n, p in unet.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 722
    assert sum(p.numel() for p in adapter.parameters()) == NUMBERS
    from diffusers.models.attention_processor import Attention

    assert all("attentions" in n for n in trained)
    attentions = [n for n, m in unet.named_modules() if isinstance(m, Attention)]
    assert all(f"{n}.to_q.lora_A.default.weight" in trained for n in attentions)


def test_first_values_depend_on_the_seed_alone(tiny_unet_config):
    torch.manual_seed(1)
    one = add_adapter(small_unet(tiny_unet_config), make_job(rank=4)).state()
    torch.manual_seed(2)
    two = add_adapter(small_unet(tiny_unet_config), make_job(rank=4)).state()
    assert all(torch.equal(one[k], two[k]) for k in one)
    for key, value in one.items():
        if key.endswith(".up"):
            assert not value.any()
        else:
            bound = value.shape[1] ** -0.5  # kaiming uniform with a = sqrt(5)
            assert 0.5 * bound < value.abs().max() <= bound


def test_output_equals_merged_weights(tiny_unet_config):
    unet = small_unet(tiny_unet_config)
    with torch.no_grad():
        plain = unet(**unet_inputs()).sample
        adapter = add_adapter(unet, make_job(rank=4, alpha=2.0))
        assert torch.equal(unet(**unet_inputs()).sample, plain)  # up starts at zero
        for _, pair in adapter.pairs():
            pair.up.normal_(std=0.1)
        adapted = unet(**unet_inputs()).sample
        adapter.enable(False)
        assert torch.equal(unet(**unet_inputs()).sample, plain)
        adapter.enable(True)
        assert torch.equal(unet(**unet_inputs()).sample, adapted)
        merged = small_unet(tiny_unet_config)
        for name, pair in adapter.pairs():
            merged.get_submodule(name).weight += pair.up @ pair.down * (2.0 / 4)
        expected = merged(**unet_inputs()).sample
    assert (adapted - plain).abs().max() > 1e-3
    torch.testing.assert_close(adapted, expected, atol=2e-6, rtol=1e-5)
    assert all(p.requires_grad for p in adapter.parameters())


def test_a_bf16_model_keeps_float32_masters(tiny_unet_config):
    unet = small_unet(tiny_unet_config, dtype=torch.bfloat16)
    adapter = add_adapter(unet, make_job(rank=4))
    assert all(p.dtype == torch.float32 for p in adapter.parameters())
    kinds = []
    layer = unet.get_submodule(adapter.names[0])
    layer.register_forward_hook(lambda m, i, out: kinds.append(out.dtype))
    out = unet(**unet_inputs(torch.bfloat16)).sample
    out.float().square().mean().backward()
    assert out.dtype == kinds[0] == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 for p in adapter.parameters())


def test_a_model_without_transformers_is_refused(tiny_unet_config):
    from diffusers import UNet2DConditionModel

    plain = tiny_unet_config | {
        "down_block_types": ["DownBlock2D"] * 2,
        "up_block_types": ["UpBlock2D"] * 2,
        "mid_block_type": "UNetMidBlock2D",
    }
    with pytest.raises(JobError, match="adapter.targets"):
        add_adapter(UNet2DConditionModel(**plain), make_job())
