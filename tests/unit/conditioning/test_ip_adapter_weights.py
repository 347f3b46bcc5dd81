"""Adapter files: containers, layouts and everything that can be wrong with them."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from conditioning.ip_adapter import IPAdapterError, build_adapter, inspect_adapter, read_adapter
from conditioning.ip_adapter.layers import AttentionLayer, attention_layers, check_fit


def pairs(count=2, channels=8, context=6):
    return {
        f"{2 * i + 1}.to_{kind}_ip.weight": torch.full((channels, context), float(i))
        for i in range(count)
        for kind in ("k", "v")
    }


def base(width=10, context=6, tokens=4):
    return {
        "proj.weight": torch.randn(tokens * context, width),
        "proj.bias": torch.randn(tokens * context),
        "norm.weight": torch.ones(context),
        "norm.bias": torch.zeros(context),
    }


def plus(width=10, context=6, hidden=64, tokens=5, depth=1):
    state = {
        "latents": torch.randn(1, tokens, hidden),
        "proj_in.weight": torch.randn(hidden, width),
        "proj_in.bias": torch.randn(hidden),
        "proj_out.weight": torch.randn(context, hidden),
        "proj_out.bias": torch.randn(context),
        "norm_out.weight": torch.ones(context),
        "norm_out.bias": torch.zeros(context),
    }
    for i in range(depth):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            state[f"layers.{i}.{norm}.weight"] = torch.ones(hidden)
            state[f"layers.{i}.{norm}.bias"] = torch.zeros(hidden)
        state[f"layers.{i}.0.to_q.weight"] = torch.randn(128, hidden)
        state[f"layers.{i}.0.to_kv.weight"] = torch.randn(256, hidden)
        state[f"layers.{i}.0.to_out.weight"] = torch.randn(hidden, 128)
        state[f"layers.{i}.1.1.weight"] = torch.randn(4 * hidden, hidden)
        state[f"layers.{i}.1.3.weight"] = torch.randn(hidden, 4 * hidden)
    return state


def full(width=10, context=6):
    return {
        "proj.0.weight": torch.randn(width, width),
        "proj.0.bias": torch.randn(width),
        "proj.2.weight": torch.randn(context, width),
        "proj.2.bias": torch.randn(context),
        "proj.3.weight": torch.ones(context),
        "proj.3.bias": torch.zeros(context),
    }


def flat(proj, prefix="image_proj.", layers="ip_adapter."):
    return {f"{prefix}{k}": v.contiguous() for k, v in proj.items()} | {
        f"{layers}{k}": v.contiguous() for k, v in pairs().items()
    }


def same(a, b):
    assert a.keys() == b.keys()
    for part in a:
        assert a[part].keys() == b[part].keys()
        assert all(torch.equal(a[part][key], b[part][key]) for key in a[part])


def test_both_containers_hold_the_same(tmp_path):
    proj = plus()
    save_file(flat(proj), tmp_path / "a.safetensors")
    torch.save({"image_proj": proj, "ip_adapter": pairs()}, tmp_path / "a.bin")
    save_file(flat(proj, "image_proj_model.", "adapter_modules."), tmp_path / "b.safetensors")
    torch.save(flat(proj), tmp_path / "c.bin")
    first = read_adapter(tmp_path / "a.safetensors")
    for name in ("a.bin", "b.safetensors", "c.bin"):
        same(first, read_adapter(tmp_path / name))


@pytest.mark.parametrize(
    ("proj", "expected"),
    [
        (base(1024), ("base", 4, "image_embeds", 1024, "CLIP-ViT-H-14")),
        (base(1280, tokens=7), ("base", 7, "image_embeds", 1280, "CLIP-ViT-bigG-14")),
        (plus(1280), ("plus", 5, "penultimate_hidden_states", 1280, "CLIP-ViT-H-14")),
        (full(1280), ("full", 0, "penultimate_hidden_states", 1280, "CLIP-ViT-H-14")),
    ],
    ids=["base", "base-bigG", "plus", "full-face"],
)
def test_layouts_are_told_by_their_tensors(proj, expected):
    spec = inspect_adapter({"image_proj": proj, "ip_adapter": pairs(3)}, "whatever.bin")
    assert (spec.kind, spec.tokens, spec.feature, spec.feature_dim, spec.encoder) == expected
    assert (spec.context_dim, spec.channels) == (6, (8, 8, 8))


def test_a_unified_loader_s_pipeline_holds_the_adapter():
    parts = {"image_proj": base(1024), "ip_adapter": pairs(3)}
    pipeline = {
        "clipvision": {"file": "vit-h", "model": object()},
        "ipadapter": {"file": "base", "model": parts},
        "insightface": {"provider": None, "model": None},
    }
    assert inspect_adapter(pipeline) == inspect_adapter(parts)
    for empty in ({**pipeline, "ipadapter": {"file": None, "model": None}}, {"ipadapter": 1}, 3):
        with pytest.raises(IPAdapterError, match="holds no adapter"):
            inspect_adapter(empty)


def test_the_module_uses_the_file_s_tensors_and_counts_heads_by_shape():
    adapter = {"image_proj": plus(hidden=64, depth=3), "ip_adapter": pairs()}
    module = build_adapter(adapter, inspect_adapter(adapter))
    # 128 wide queries of 64 each, though the hidden width is 64.
    assert [attention.heads for attention, _ in module.projector.layers] == [2, 2, 2]
    assert (
        module.projector.proj_in.weight.data_ptr()
        == adapter["image_proj"]["proj_in.weight"].data_ptr()
    )
    tokens = module.tokens(torch.randn(2, 9, 10))
    assert tokens.shape == (2, 5, 6)
    keys, values = module.keys_values(1, tokens, 0.5)
    assert torch.equal(2 * values, keys)


FACE_ID = {
    "faceid": ({"proj.0.weight": torch.zeros(8, 512), "proj.2.weight": torch.zeros(8, 8)}, {}),
    "faceid-plus": ({"perceiver_resampler.proj_in.weight": torch.zeros(8, 8)}, {}),
    "lora": (base(), {"0.to_q_lora.down.weight": torch.zeros(2, 2)}),
    "instantid": (plus(512), {}),
}


@pytest.mark.parametrize("name", FACE_ID)
def test_face_id_is_named_and_refused(name):
    proj, extra = FACE_ID[name]
    adapter = {"image_proj": {"norm.weight": torch.ones(6), **proj}, "ip_adapter": pairs() | extra}
    with pytest.raises(IPAdapterError, match=r"'f.bin' is a FaceID adapter.*not supported yet"):
        inspect_adapter(adapter, "f.bin")


def without(state, key):
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"image_proj": {"foo": torch.ones(2)}, "ip_adapter": pairs()}, "unknown layout"),
        ({"image_proj": without(base(), "norm.weight"), "ip_adapter": pairs()}, "norm.weight"),
        ({"image_proj": base(), "ip_adapter": pairs(context=7)}, "damaged"),
        ({"image_proj": base(), "ip_adapter": {}}, "damaged"),
        (
            {"image_proj": base(), "ip_adapter": without(pairs(), "3.to_v_ip.weight")},
            "layer 3 lacks",
        ),
        ({"image_proj": base()}, "connect Load IP-Adapter"),
        ("a name", "connect Load IP-Adapter"),
    ],
)
def test_incomplete_adapters_are_refused(adapter, message):
    with pytest.raises(IPAdapterError, match=message):
        inspect_adapter(adapter)


@pytest.mark.parametrize(
    "key", ["layers.0.0.to_out.weight", "layers.0.1.1.weight", "proj_out.bias"]
)
def test_a_projector_with_a_hole_is_refused(key):
    adapter = {"image_proj": without(plus(), key), "ip_adapter": pairs()}
    with pytest.raises(IPAdapterError, match="incomplete"):
        build_adapter(adapter, inspect_adapter(adapter))


class Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ("evil",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.safetensors", b"\x10\0\0\0\0\0\0\0{not json", "cannot be read as model weights"),
        ("short.bin", b"PK\3\4", "cannot be read as model weights"),
        ("empty.bin", b"", "cannot be read as model weights"),
        (
            "evil.bin",
            pickle.dumps({"image_proj": Evil()}, protocol=2),
            "cannot be read as model weights",
        ),
    ],
    ids=["broken", "short", "empty", "evil"],
)
def test_files_that_cannot_be_read(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(IPAdapterError, match=f"'{name}' {message}") as caught:
        read_adapter(tmp_path / name)
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)
    assert not (tmp_path / "evil").exists()


def test_other_weights_are_no_adapter(tmp_path):
    save_file({"lora_unet.weight": torch.ones(1)}, tmp_path / "lora.safetensors")
    torch.save([torch.ones(1)], tmp_path / "list.bin")
    with pytest.raises(IPAdapterError, match="'lora.safetensors' holds no IP-Adapter"):
        read_adapter(tmp_path / "lora.safetensors")
    with pytest.raises(IPAdapterError, match="'list.bin' holds no IP-Adapter"):
        read_adapter(tmp_path / "list.bin")
    with pytest.raises(IPAdapterError, match="'gone.bin' cannot be read"):
        read_adapter(tmp_path / "gone.bin")


def layers(count, channels, context):
    return tuple(
        AttentionLayer(("input", 4, i), 2 * i + 1, 0, channels, context) for i in range(count)
    )


def test_an_adapter_for_another_model_is_refused_in_words():
    sd15 = inspect_adapter(
        {"image_proj": base(1024, 768), "ip_adapter": pairs(16, 320, 768)}, "ip-adapter_sd15.bin"
    )
    with pytest.raises(IPAdapterError) as caught:
        check_fit(sd15, layers(70, 640, 2048))
    message = str(caught.value)
    for part in (
        "'ip-adapter_sd15.bin' is made for Stable Diffusion 1.5 (16 cross attentions",
        "but the model is SDXL (70 cross attentions",
        "ip-adapter-plus_sdxl_vit-h.safetensors",
    ):
        assert part in message
    check_fit(sd15, layers(16, 320, 768))
    with pytest.raises(IPAdapterError, match="16 cross attentions.*15 cross attentions"):
        check_fit(sd15, layers(15, 320, 768))
    with pytest.raises(IPAdapterError, match="trained for this model"):
        check_fit(sd15, layers(16, 640, 768))


def test_models_without_a_unet_are_refused():
    with pytest.raises(IPAdapterError, match="no UNet"):
        attention_layers(torch.nn.Linear(1, 1))
