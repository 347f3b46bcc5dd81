"""What merging and resizing rest on: every form of adapter changes a weight as in ComfyUI."""

import pytest
import torch

from training.kinds import KINDS
from training.lora_names import Names
from training.lorafile import read_lora
from training.parts import change, complaint, split_key


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LINEAR, CONV = (24, 16), (24, 16, 3, 3)
R = 4
FORMS = {
    "lora": (LINEAR, {"lora_down.weight": (R, 16), "lora_up.weight": (24, R)}, 2.0),
    "lora without alpha": (LINEAR, {"lora_down.weight": (R, 16), "lora_up.weight": (24, R)}, None),
    "locon": (CONV, {"lora_down.weight": (R, 16, 3, 3), "lora_up.weight": (24, R, 1, 1)}, 2.0),
    "flat locon": (CONV, {"lora_down.weight": (R, 144), "lora_up.weight": (24, R)}, 2.0),
    "locon of three": (
        CONV,
        {
            "lora_down.weight": (R, 16, 1, 1),
            "lora_mid.weight": (R, R, 3, 3),
            "lora_up.weight": (24, R, 1, 1),
        },
        2.0,
    ),
    "dora": (
        LINEAR,
        {"lora_down.weight": (R, 16), "lora_up.weight": (24, R), "dora_scale": (1, 16)},
        2.0,
    ),
    "dora of a convolution": (
        CONV,
        {
            "lora_down.weight": (R, 16, 3, 3),
            "lora_up.weight": (24, R, 1, 1),
            "dora_scale": (1, 16, 1, 1),
        },
        2.0,
    ),
    "loha": (
        LINEAR,
        {
            "hada_w1_a": (24, R),
            "hada_w1_b": (R, 16),
            "hada_w2_a": (24, R),
            "hada_w2_b": (R, 16),
        },
        2.0,
    ),
    "loha with cores": (
        CONV,
        {
            "hada_t1": (R, R, 3, 3),
            "hada_w1_a": (R, 24),
            "hada_w1_b": (R, 16),
            "hada_t2": (R, R, 3, 3),
            "hada_w2_a": (R, 24),
            "hada_w2_b": (R, 16),
        },
        2.0,
    ),
    "lokr": (LINEAR, {"lokr_w1": (4, 4), "lokr_w2": (6, 4)}, 2.0),
    "lokr of three": (LINEAR, {"lokr_w1": (4, 4), "lokr_w2_a": (6, R), "lokr_w2_b": (R, 4)}, 2.0),
    "lokr of four": (
        LINEAR,
        {"lokr_w1_a": (4, R), "lokr_w1_b": (R, 4), "lokr_w2_a": (6, R), "lokr_w2_b": (R, 4)},
        2.0,
    ),
    "lokr of a convolution": (CONV, {"lokr_w1": (4, 4), "lokr_w2": (6, 4, 3, 3)}, None),
    "oft": (LINEAR, {"oft_blocks": (3, 8, 8)}, None),
    "oft of a convolution": (CONV, {"oft_blocks": (3, 8, 8)}, None),
    "diff": (CONV, {"diff": CONV}, None),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_changes_as_in_comfyui(comfy, form):
    import comfy.lora

    shape, parts, alpha = FORMS[form]
    tensors = {name: numbers(*s, seed=i) for i, (name, s) in enumerate(parts.items())}
    if "dora_scale" in tensors:
        tensors["dora_scale"] = tensors["dora_scale"].abs() + 1
    if alpha is not None:
        tensors["alpha"] = torch.tensor(alpha)
    weight = numbers(*shape, seed=99)
    file = {f"layer.{name}": tensor for name, tensor in tensors.items()}
    patches = comfy.lora.load_lora(file, {"layer": "layer.weight"})
    patch = [(1.0, patches["layer.weight"], 1.0, None, None)]
    theirs = comfy.lora.calculate_weight(patch, weight.clone(), "layer.weight")
    ours = weight + change(tensors, weight)
    assert (theirs - weight).abs().max() > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_names_the_file_s_own_rank_and_alpha(kind):
    """in_file is what metadata says; export is what the file holds."""
    shapes = {
        "down": (R, 64),
        "up": (64, R),
        "down0": (R, 64),
        "up0": (64, R),
        "magnitude": (64,),
        "hada_w1_b": (R, 64),
        "lokr_w1": (8, 8),
        "lokr_w2_a": (8, R),
        "lokr_w2_b": (R, 8),
        "oft_blocks": (16, R, R),
    }
    tensors = {name: numbers(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    from training.parts import rank_in

    used = {
        "loha": ("hada_w1_b",),
        "lokr": ("lokr_w1", "lokr_w2_a", "lokr_w2_b"),
        "oft": ("oft_blocks",),
    }.get(kind, ("down", "up", "down0", "up0", "magnitude"))
    parts = KINDS[kind].export({name: tensors[name] for name in used}, R, 3.0)
    rank, alpha = KINDS[kind].in_file(R, 3.0)
    assert rank_in(parts) == rank
    if kind != "oft":
        assert float(parts["alpha"]) == pytest.approx(alpha)


# ------------------------------------------------------------------ the trainers' own forward

LAYERS = {"linear": lambda: torch.nn.Linear(16, 32), "conv": lambda: torch.nn.Conv2d(16, 32, 3)}
ALGORITHMS = {
    "locon": {},
    "locon tucker": {"use_tucker": True},
    "locon dora rows": {"weight_decompose": True, "wd_on_out": True},
    "locon dora columns": {"weight_decompose": True, "wd_on_out": False},
    "locon rs": {"rs_lora": True},
    "loha": {},
    "loha tucker": {"use_tucker": True},
    "loha dora rows": {"weight_decompose": True, "wd_on_out": True},
    "loha dora columns": {"weight_decompose": True, "wd_on_out": False},
    "kron": {"factor": 4},
    "kron tucker": {"factor": 4, "use_tucker": True},
    "kron full": {"factor": 4, "full_matrix": True},
    "kron both": {"factor": 4, "decompose_both": True},
    "kron dora rows": {"factor": 4, "weight_decompose": True, "wd_on_out": True},
    "kron dora columns": {"factor": 4, "weight_decompose": True, "wd_on_out": False},
    "diag-oft": {},
    "diag-oft rescaled": {"rescaled": True},
    "diag-oft constraint": {"constraint": 0.01},
    "boft": {},
    "boft rescaled": {"rescaled": True, "constraint": 0.01},
}


@pytest.mark.parametrize("shape", LAYERS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_weight_changes_as_in_lycoris(algorithm, shape):
    """Every kind that LyCORIS writes, against the layer it trains."""
    import lycoris.modules

    kinds = {m.name: m for m in vars(lycoris.modules).values() if getattr(m, "name", None)}
    torch.manual_seed(5)
    layer = LAYERS[shape]()
    name = algorithm.partition(" ")[0]
    made = kinds[name]("x", layer, 1.0, 4, 2.0, **ALGORITHMS[algorithm])
    for parameter in made.parameters():
        with torch.no_grad():
            parameter += 0.3 * torch.randn(parameter.shape)
    x = torch.randn(2, 16, 7, 7) if shape == "conv" else torch.randn(2, 16)
    before = layer(x).detach()
    made.eval()
    after = made(x).detach()
    state = made.custom_state_dict() or made.state_dict()
    tensors = {split_key(f"x.{key}")[1]: tensor.detach() for key, tensor in state.items()}
    assert complaint(tensors) == ""
    weight = layer.weight.detach()
    with torch.no_grad():
        layer.weight += change(tensors, weight.clone())
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(layer(x).detach(), after, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr"])
def test_a_weight_changes_as_in_peft(kind, tmp_path):
    """Raw files of PEFT say alpha in adapter_config.json beside them."""
    import peft

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.proj_in = torch.nn.Linear(64, 64)

    config = {
        "lora": peft.LoraConfig(r=4, lora_alpha=2, use_rslora=True, target_modules=["proj_in"]),
        "dora": peft.LoraConfig(r=4, lora_alpha=2, use_dora=True, target_modules=["proj_in"]),
        "loha": peft.LoHaConfig(r=4, alpha=2, target_modules=["proj_in"]),
        "lokr": peft.LoKrConfig(r=8, alpha=2, target_modules=["proj_in"]),
    }[kind]
    torch.manual_seed(3)
    net = Net()
    weight = net.proj_in.weight.detach().clone()
    trained = peft.get_peft_model(net, config)
    for parameter in trained.parameters():
        if parameter.requires_grad:
            with torch.no_grad():
                parameter += 0.2 * torch.randn(parameter.shape)
    trained.save_pretrained(tmp_path)
    merged = trained.merge_and_unload().proj_in.weight.detach()
    file = read_lora(tmp_path / "adapter_model.safetensors", Names())
    ((name, parts),) = file.layers.items()
    assert (merged - weight).abs().max() > 0.01
    assert complaint(parts) == "" and not file.remarks
    torch.testing.assert_close(weight + change(parts, weight), merged, atol=1e-4, rtol=1e-4)
    (tmp_path / "adapter_config.json").unlink()
    if kind != "lokr":
        assert "alpha" not in read_lora(file.path, Names()).layers[name]
        assert "adapter_config.json" in read_lora(file.path, Names()).remarks[0]
