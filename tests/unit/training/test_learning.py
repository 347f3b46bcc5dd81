"""Learning is real: a LoRA gets better at unseen pictures of its subject, and at no other's."""

import copy
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

SIDE = 64
FIT_STEPS, LORA_STEPS, RATE = 180, 90, 2e-3
BATCH = {"batch": {"size": 6}}


def picture(subject: str, number: int) -> Image.Image:
    """A subject in changing places on changing grounds: an orange ring, or blue bars."""
    random = np.random.default_rng(number)
    ground = tuple(int(x) for x in random.integers(90, 166, 3))
    image = Image.new("RGB", (SIDE, SIDE), ground)
    draw = ImageDraw.Draw(image)
    x, y = (int(v) for v in random.integers(4, 20, 2))
    if subject == "ring":
        draw.ellipse([x, y, x + 40, y + 40], fill=(245, 140, 20), outline=(90, 20, 0), width=6)
    else:
        for i in range(4):
            draw.rectangle([x + 10 * i, y, x + 10 * i + 5, y + 40], fill=(20, 60, 220))
    return image


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict:
    """Folders of pictures, captioned by subject: to fit, to train on, and never seen."""
    root, out = tmp_path_factory.mktemp("subjects"), {}
    for name, subject, numbers in (
        ("fit", "bars", range(40)),
        ("train", "ring", range(100, 112)),
        ("unseen ring", "ring", range(200, 208)),
        ("unseen bars", "bars", range(300, 308)),
    ):
        folder = out[name] = root / name
        folder.mkdir()
        for number in numbers:
            picture(subject, number).save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text(f"a picture of {subject}", "utf-8")
    return out


def clear_sighted(vae, folder) -> torch.nn.Module:
    """The random autoencoder with latents of mean 0 and variance 1: there is much to see."""
    from torchvision.transforms.functional import to_tensor

    vae = copy.deepcopy(vae)
    pictures = torch.stack([to_tensor(Image.open(f)) for f in sorted(folder.glob("*.png"))])
    with torch.no_grad():
        latents = vae.encode(pictures * 2 - 1).latents.transpose(0, 1).flatten(1)
        last = vae.encoder.layers[-1]
        scale = 1 / (0.13025 * latents.std(dim=1))
        last.bias.copy_((last.bias - latents.mean(dim=1)) * scale)
        last.weight.mul_(scale.view(-1, 1, 1, 1))
    return vae


def write_checkpoint(path, models, unet_config) -> str:
    from safetensors.torch import save_file

    from training.keys import to_sgm_checkpoint

    parts = [models[k].state_dict() for k in ("text_l", "text_g", "vae")]
    save_file(to_sgm_checkpoint(models["unet"].state_dict(), unet_config, *parts), path)
    return str(path)


@pytest.fixture
def fitted(make_loop, folders, tiny_models, tiny_unet_config, tmp_path) -> str:
    """A checkpoint that has learnt bars with all its weights: a base that knows something."""
    from training.rng import generator

    models = {**tiny_models, "vae": clear_sighted(tiny_models["vae"], folders["fit"])}
    random = write_checkpoint(tmp_path / "random.safetensors", models, tiny_unet_config)
    plan, _, data, loop = make_loop(
        {"base": {"checkpoint": random}, "dataset": {"folder": str(folders["fit"])}, **BATCH}
    )
    unet = copy.deepcopy(tiny_models["unet"]).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=RATE)
    for step in range(FIT_STEPS):
        batch = data.batch(plan.sampler.batch(step), step)
        draw = loop._objective.draw(batch.latents, generator("fit", step))
        loop._objective.losses(unet, batch, draw, torch.float32).mean().backward()
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / FIT_STEPS)
        optimizer.step()
        optimizer.zero_grad()
    models["unet"] = unet.requires_grad_(False)
    return write_checkpoint(tmp_path / "fitted.safetensors", models, tiny_unet_config)


def test_a_lora_learns_its_subject_and_no_other(fitted, make_loop, folders):
    from training.validation import Validation

    changes = {
        "base": {"checkpoint": fitted},
        "dataset": {"folder": str(folders["train"])},
        "adapter": {"rank": 16, "alpha": 16.0},
        **BATCH,
        "optimizer": {"learning_rate": 3e-3},
        "schedule": {"steps": LORA_STEPS, "warmup": 0.05},
    }
    measured = {}
    for subject in ("ring", "bars"):
        held = {"validation": {"folder": str(folders[f"unseen {subject}"]), "timesteps": 6}}
        plan, adapter, data, loop = make_loop({**changes, **held})
        measured[subject] = Validation(plan, data)
    assert len(plan.held_out) == 8
    before = {s: v.measure(adapter, loop.updater, 0).loss for s, v in measured.items()}
    loop.run(0, lambda step: True)
    after = {s: v.measure(adapter, loop.updater, 1).loss for s, v in measured.items()}
    change = {s: after[s] / before[s] - 1 for s in before}
    for subject in before:
        told = f"{before[subject]:.4f} -> {after[subject]:.4f} ({change[subject]:+.1%})"
        sys.stdout.write(f"held-out loss of {subject}: {told}\n")
    assert change["ring"] < -0.10
    assert change["bars"] > -0.02
