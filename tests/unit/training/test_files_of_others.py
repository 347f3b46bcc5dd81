"""Adapter files that other programs write oddly: read right, or refused by name."""

import hashlib
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from .test_files import assert_same_effect, command, effect, make_lora

__all__ = ["command", "make_lora"]  # fixtures


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"a1.weight": 2, "a2.weight": 2, "b1.weight": 2, "b2.weight": 2}, "is GLoRA"),
        ({"weight": 1, "on_input": 0}, r"is \(IA\)\^3"),
        ({"lora_down.weight": 2, "lora_up.weight": 2, "rescale": 1}, "lora with rescale beside it"),
        ({"oft_blocks": 3, "dora_scale": 2}, "oft with dora_scale beside it"),
        ({"lora_down.weight": 2}, "partner is missing"),
    ],
)
def test_what_nothing_would_read_is_refused_by_name(make_lora, command, tmp_path, extra, words):
    tensors = load_file(make_lora("good", {"rank": 4}))
    stem = next(iter(tensors)).partition(".")[0]
    tensors = {key: t for key, t in tensors.items() if not key.startswith(stem)}
    tensors |= {f"{stem}.{part}": torch.ones([2] * dims) for part, dims in extra.items()}
    path, out = tmp_path / "odd.safetensors", tmp_path / "out.safetensors"
    save_file(tensors, path)
    for words_of in (("merge", path, path), ("convert", path), ("resize", path, "--rank", "2")):
        code, _, said = command(*words_of, "-o", out)
        assert code == 2 and re.search(words, said) and not out.exists()
    code, text, _ = command("inspect", path)
    assert code == 0 and re.search(f"PROBLEM: 1 layers cannot be used: each .*{words}", text)


def test_the_second_text_encoder_s_projection_is_merged(command, tmp_path, tiny_checkpoint):
    """OneTrainer trains it; open_clip keeps it as (in, out)."""
    key = "conditioner.embedders.1.model.text_projection"
    before = load_file(tiny_checkpoint)[key]
    down, up = torch.randn(2, len(before)), torch.randn(before.shape[1], 2)
    stem, path = "lora_te2_text_projection", tmp_path / "onetrainer.safetensors"
    alpha = torch.tensor(1.0)
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "alpha": alpha}
    save_file({f"{stem}.{part}": tensor for part, tensor in tensors.items()}, path)
    out = tmp_path / "merged.safetensors"
    assert command("merge", path, "--into", tiny_checkpoint, "-o", out, base=False)[0] == 0
    expected = before.float() + (0.5 * up @ down).T
    torch.testing.assert_close(load_file(out)[key].float(), expected, atol=2e-2, rtol=1e-2)
    assert command("merge", path, path, "-o", tmp_path / "two.safetensors")[0] == 0
    assert set(load_file(tmp_path / "two.safetensors")) == {f"{stem}.{part}" for part in tensors}


def test_float8_files_are_read(make_lora, command, tmp_path, tiny_checkpoint):
    tensors = load_file(make_lora("good", {"rank": 4}))
    small = {k: t if k.endswith("alpha") else t.to(torch.float8_e4m3fn) for k, t in tensors.items()}
    path, out = tmp_path / "small.safetensors", tmp_path / "out.safetensors"
    save_file(small, path)
    code, text, _ = command("inspect", path)
    assert code == 0 and "float8_e4m3fn" in text
    assert command("convert", path, "-o", out)[0] == 0
    assert_same_effect(effect(path, tiny_checkpoint), effect(out, tiny_checkpoint))
    assert {t.dtype for t in load_file(out).values()} == {torch.float16}
    for words in (("merge", path, path), ("resize", path, "--rank", "4")):
        assert command(*words, "-o", out, "--force")[0] == 0


def test_a_hash_may_begin_with_0x(make_lora, command, tmp_path):
    tensors = load_file(make_lora("good", {"rank": 4}))
    path = tmp_path / "lycoris.safetensors"
    save_file(tensors, path)
    with open(path, "rb") as file:
        data = file.read()
    digest = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    for claimed, changed in ((f"0x{digest}", False), ("0x" + "0" * 64, True)):
        save_file(tensors, path, {"sshs_model_hash": claimed})
        assert ("the file was changed" in command("inspect", path)[1]) == changed
