"""Commands for adapter files, against the weights they change."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save_file

from training import cli, merge, open_checkpoint, parse_job
from training.adapter import add_adapter
from training.checkpoint import load_text_encoders, load_unet
from training.export import lora_tensors, verify_lora, write_lora
from training.lora_names import Names
from training.lorafile import read_lora
from training.parts import change
from training.weights import Weights

from .test_kinds import disturb

TEXT = {"learning_rate_1": 1e-4, "learning_rate_2": 1e-4}


@pytest.fixture
def make_lora(job_values, tmp_path, tiny_checkpoint):
    """make_lora(name, adapter, text, seed) -> file of an adapter with random numbers."""
    checkpoint = open_checkpoint(tiny_checkpoint)

    def make(name: str, adapter: dict, text: dict | None = None, size: float = 0.05):
        few = {} if "targets" in adapter or "layers" in adapter else {"layers": ["mid_block"]}
        values = {"adapter": {"alpha": None, **few, **adapter}, "text_encoders": text or {}}
        job = parse_job(merge(merge(job_values, values), {"saving": {"precision": "fp32"}}))
        made = add_adapter(load_unet(checkpoint), job, load_text_encoders(checkpoint))
        disturb(made, size)
        path = tmp_path / f"{name}.safetensors"
        metadata = {"ss_base_model_version": "sdxl_base_v1-0", "ss_output_name": name}
        write_lora(path, lora_tensors(made.state(), job, checkpoint), metadata, checkpoint)
        return path

    return make


@pytest.fixture
def command(tiny_checkpoint, capsys):
    """command(words) -> (exit code, stdout, stderr) of `python -m training ...`."""

    def run(*words, base: bool = True):
        extra = ["--base", str(tiny_checkpoint)] if base else []
        code = cli.main([*map(str, words), *extra])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def effect(path, checkpoint_path, factor=1.0):
    """Layer -> what a file adds to its weight."""
    weights = Weights(open_checkpoint(checkpoint_path))
    layers = read_lora(path, weights.names).layers
    return {n: factor * change(p, weights.get(n).float()) for n, p in layers.items()}


def assert_same_effect(one, two, tolerance=1e-5):
    assert set(one) == set(two)
    for name in one:
        size = one[name].abs().max()
        assert (one[name] - two[name]).abs().max() <= tolerance * size, name


def test_inspect_says_what_a_file_is(make_lora, command):
    adapter = {"targets": "transformer", "rank": 4, "block_ranks": {"mid_block": 8}, "alpha": 2.0}
    path = make_lora("zoe", adapter, TEXT)
    code, out, _ = command("inspect", path, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["problems"] == []
    assert facts["kinds"] == {"lora": 48 + 36} and facts["naming"] == {"kohya": 48 + 36}
    assert set(facts["ranks"]) == {"4", "8"} and facts["alphas"] == {"2.0": 84}
    assert facts["types"] == {"float32": 2 * 84}
    assert facts["blocks"]["text_encoder"] == 18 and facts["blocks"]["unet mid_block"] == 12
    assert "attention" in facts["targets"] and "text encoder 2" in facts["targets"]
    assert facts["metadata"]["sshs_model_hash"] == facts["content_sha256"]
    code, out, _ = command("inspect", path)
    assert code == 0 and "no problems found" in out and "kind: lora x 84" in out


@pytest.mark.parametrize("kind", ["loha", "lokr", "oft", "dora"])
def test_inspect_knows_the_other_kinds(make_lora, command, kind):
    path = make_lora(kind, {"kind": kind, "rank": 4})
    facts = json.loads(command("inspect", path, "--json")[1])
    assert set(facts["kinds"]) == {kind} and facts["problems"] == []


def test_inspect_finds_what_is_wrong(make_lora, command, tmp_path):
    tensors = load_file(make_lora("good", {"rank": 4}))
    stem = next(iter(tensors)).partition(".")[0]
    tensors[f"{stem}.lora_up.weight"][0, 0] = float("nan")
    del tensors[next(k for k in tensors if k.endswith("down.weight") and not k.startswith(stem))]
    tensors["lora_unet_elsewhere.lora_up.weight"] = torch.ones(4, 4)
    tensors["bundle_emb.zoe"] = torch.ones(4)
    save_file(tensors, tmp_path / "bad.safetensors", {"sshs_model_hash": "0" * 64})
    _, out, _ = command("inspect", tmp_path / "bad.safetensors")
    for problem in (
        "1 layers cannot be used: each holds NaN or infinity in lora_up.weight",
        "1 layers cannot be used: each has alpha, lora_up.weight alone",
        "1 layers belong to no SDXL model: lora_unet_elsewhere",
        "1 keys are no part of an adapter: bundle_emb.zoe",
        "the file was changed",
        "no metadata about the base model",
    ):
        assert f"PROBLEM: {problem}" in out or problem in out, problem


def test_convert_there_and_back(make_lora, command, tmp_path, tiny_checkpoint):
    path = make_lora("zoe", {"rank": 4, "alpha": 3.0, "targets": "all"}, TEXT)
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    assert command("convert", path, "-o", there, "--style", "diffusers")[0] == 0
    keys = load_file(there)
    assert all(k.startswith(("unet.", "text_encoder")) and ".lora_" in k for k in keys)
    _, out, _ = command("inspect", there)
    assert "ComfyUI does not read diffusers' names of" in out
    assert command("convert", there, "-o", back)[0] == 0
    assert set(load_file(back)) == set(load_file(path))
    assert_same_effect(effect(path, tiny_checkpoint), effect(back, tiny_checkpoint), 1e-6)
    verify_lora(back, open_checkpoint(tiny_checkpoint))
    for precision, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        small = tmp_path / f"{precision}.safetensors"
        assert command("convert", path, "-o", small, "--precision", precision)[0] == 0
        assert {v.dtype for v in load_file(small).values()} == {dtype}
        with safe_open(small, "pt") as file:
            metadata = file.metadata()
        assert metadata["ss_output_name"] == "zoe"
        facts = json.loads(command("inspect", small, "--json")[1])
        assert facts["problems"] == []  # hashes are those of the new content


def test_convert_takes_alphas_from_diffusers_metadata(command, tmp_path, tiny_checkpoint):
    """As `save_lora_weights` writes them: in the metadata, with patterns."""
    names = [f"mid_block.attentions.0.transformer_blocks.0.attn1.{p}" for p in ("to_q", "to_k")]
    tensors = {}
    for name in names:
        tensors[f"unet.{name}.lora_A.weight"] = torch.randn(4, 64)
        tensors[f"unet.{name}.lora_B.weight"] = torch.randn(64, 4)
    about = {"unet.lora_alpha": 2.0, "unet.r": 4, "unet.alpha_pattern": {names[1]: 8.0}}
    path, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps(about)})
    assert command("convert", path, "-o", out)[0] == 0
    for name, scale in zip(names, (0.5, 2.0), strict=True):
        down, up = (tensors[f"unet.{name}.lora_{s}.weight"] for s in "AB")
        got = effect(out, tiny_checkpoint)[name]
        torch.testing.assert_close(got, up @ down * scale, atol=1e-4, rtol=1e-4)


SPELLINGS = {
    "kohya with diffusers names": lambda n, t: f"lora_unet_{n.replace('.', '_')}.lora_{t}.weight",
    "peft": lambda n, t: f"base_model.model.{n}.lora_{'A' if t == 'down' else 'B'}.weight",
    "old diffusers": lambda n, t: f"unet.{n.replace('.to_', '.processor.to_')}_lora.{t}.weight",
    "diffusers": lambda n, t: f"unet.{n}.lora.{t}.weight",
    "lycoris": lambda n, t: f"lycoris_{n.replace('.', '_')}.lora_{t}.weight",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_read(command, tmp_path, tiny_checkpoint, spelling):
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    down, up = torch.randn(4, 64), torch.randn(64, 4)
    key = SPELLINGS[spelling]
    path, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({key(name, "down"): down, key(name, "up"): up}, path)
    assert command("convert", path, "-o", out)[0] == 0
    torch.testing.assert_close(effect(out, tiny_checkpoint)[name], up @ down)
    assert verify_lora(out, open_checkpoint(tiny_checkpoint)) == 1


def test_full_sdxl_needs_no_base(tmp_path, command):
    stem = "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_k"
    tensors = {f"{stem}.lora_down.weight": torch.ones(2, 2048)}
    tensors |= {f"{stem}.lora_up.weight": torch.ones(1280, 2), f"{stem}.alpha": torch.tensor(1.0)}
    path, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(tensors, path)
    assert command("convert", path, "-o", out, "--style", "diffusers", base=False)[0] == 0
    name = "unet.down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k"
    assert set(load_file(out)) == {f"{name}.lora_A.weight", f"{name}.lora_B.weight"}
    assert len(Names().sgm) > 722


def test_merged_effect_is_the_sum_of_effects(make_lora, command, tmp_path, tiny_checkpoint):
    one = make_lora("one", {"rank": 4, "alpha": 2.0, "targets": "all"})
    two = make_lora("two", {"kind": "rslora", "rank": 3, "layers": ["mid_block"]}, TEXT, 0.09)
    out = tmp_path / "out.safetensors"
    words = ("merge", one, two, "--weights", "0.7,-0.4", "-o", out, "--precision", "fp32")
    assert command(*words)[0] == 0
    expected = effect(one, tiny_checkpoint, 0.7)
    for name, delta in effect(two, tiny_checkpoint, -0.4).items():
        expected[name] = expected.get(name, 0) + delta
    assert_same_effect(expected, effect(out, tiny_checkpoint))
    with safe_open(out, "pt") as file:
        assert file.metadata()["modelspec.merged_from"] == "one x 0.7, two x -0.4"
        assert file.metadata()["troupe.kept"] == "1.000000"
    verify_lora(out, open_checkpoint(tiny_checkpoint))


@pytest.mark.parametrize("kind", ["loha", "lokr", "oft", "dora"])
def test_merging_other_kinds_bakes_them(make_lora, command, tmp_path, tiny_checkpoint, kind):
    one = make_lora("one", {"rank": 4})
    two = make_lora("two", {"kind": kind, "rank": 2})
    out = tmp_path / "out.safetensors"
    words = ("merge", one, two, "-o", out, "--precision", "fp32", "--rank", "512")
    code, text, _ = command(*words)
    assert code == 0 and "that are no plain LoRA became rank 512" in text
    expected = effect(one, tiny_checkpoint)
    for name, delta in effect(two, tiny_checkpoint).items():
        expected[name] += delta
    assert_same_effect(expected, effect(out, tiny_checkpoint), 1e-4)


@pytest.mark.parametrize("kind", ["lora", "dora", "oft"])
def test_merge_into_a_checkpoint(make_lora, command, tmp_path, tiny_checkpoint, kind):
    path = make_lora("zoe", {"kind": kind, "rank": 4, "layers": ["mid_block", "conv_out"]}, TEXT)
    out = tmp_path / "merged.safetensors"
    words = ("merge", path, "--weights", "0.5", "--into", tiny_checkpoint, "-o", out)
    assert command(*words, base=False)[0] == 0
    before, after = load_file(tiny_checkpoint), load_file(out)
    weights = Weights(open_checkpoint(tiny_checkpoint))
    merged = Weights(open_checkpoint(out))
    touched = set()
    for name, delta in effect(path, tiny_checkpoint, 0.5).items():
        touched.add(weights.place(name).key)
        torch.testing.assert_close(
            merged.get(name), weights.get(name) + delta, atol=1e-6, rtol=1e-5
        )
    assert set(before) == set(after)
    for key in set(before) - touched:
        assert torch.equal(before[key], after[key])
    assert {k for k in before if not torch.equal(before[key], after[key])} <= touched


def test_resize_at_full_rank_is_exact_and_below_it_best(
    make_lora, command, tmp_path, tiny_checkpoint
):
    path = make_lora("zoe", {"rank": 8, "alpha": 3.0, "targets": "all"}, TEXT)
    before = effect(path, tiny_checkpoint)
    for rank in (8, 3):
        out = tmp_path / f"{rank}.safetensors"
        words = ("resize", path, "-o", out, "--rank", rank, "--precision", "fp32")
        assert command(*words)[0] == 0
        after = effect(out, tiny_checkpoint)
        if rank == 8:
            assert_same_effect(before, after)
            continue
        for name, delta in before.items():
            values = torch.linalg.svdvals(delta.flatten(1).double())
            error = (delta - after[name]).double().square().sum()
            assert float(error) == pytest.approx(float(values[3:].square().sum()), rel=1e-3)


def test_resize_to_a_share_of_energy(make_lora, command, tmp_path, tiny_checkpoint):
    path = make_lora("zoe", {"rank": 8})
    out = tmp_path / "out.safetensors"
    code, text, _ = command("resize", path, "-o", out, "--energy", "0.8", "--precision", "fp32")
    assert code == 0 and "every layer keeps at least 0.8" in text
    layers = read_lora(out, Weights(open_checkpoint(tiny_checkpoint)).names).layers
    after = effect(out, tiny_checkpoint)
    for name, delta in effect(path, tiny_checkpoint).items():
        values = torch.linalg.svdvals(delta.flatten(1).double()).square()
        rank = len(layers[name]["lora_down.weight"])
        assert values[:rank].sum() >= 0.8 * values.sum() > values[: rank - 1].sum()
        kept = after[name].double().square().sum() / values.sum()
        assert kept >= 0.8 - 1e-6


@pytest.mark.parametrize("kind", ["loha", "lokr", "oft", "dora", "pissa"])
def test_resize_turns_any_kind_into_a_lora(make_lora, command, tmp_path, tiny_checkpoint, kind):
    path = make_lora("zoe", {"kind": kind, "rank": 4, "layers": ["mid_block", "conv_out"]})
    out = tmp_path / "out.safetensors"
    words = ("resize", path, "-o", out, "--rank", "4096", "--precision", "fp32")
    assert command(*words)[0] == 0
    assert_same_effect(effect(path, tiny_checkpoint), effect(out, tiny_checkpoint), 2e-5)
    facts = json.loads(command("inspect", out, "--json")[1])
    assert set(facts["kinds"]) == {"lora"}


def test_extract_recovers_a_lora_that_was_merged(make_lora, command, tmp_path, tiny_checkpoint):
    path = make_lora("zoe", {"rank": 4, "targets": "all"}, TEXT)
    tuned, out = tmp_path / "tuned.safetensors", tmp_path / "out.safetensors"
    assert command("merge", path, "--into", tiny_checkpoint, "-o", tuned, base=False)[0] == 0
    words = ("extract", tuned, "-o", out, "--rank", "4", "--precision", "fp32")
    assert command(*words)[0] == 0
    assert_same_effect(effect(path, tiny_checkpoint), effect(out, tiny_checkpoint), 1e-4)
    verify_lora(out, open_checkpoint(tiny_checkpoint))
    assert command("extract", tuned, "-o", out, "--no-text", "--force")[0] == 0
    assert not any(k.startswith("lora_te") for k in load_file(out))


def test_extract_says_what_it_cannot_hold(command, tmp_path, tiny_checkpoint):
    tensors = load_file(tiny_checkpoint)
    key = "model.diffusion_model.out.0.bias"
    tensors[key] = tensors[key] + 1
    tensors["model.diffusion_model.out.2.weight"] *= 1.5
    tuned, out = tmp_path / "tuned.safetensors", tmp_path / "out.safetensors"
    save_file(tensors, tuned)
    code, text, _ = command("extract", tuned, "-o", out, "--rank", "8")
    assert code == 0 and f"1 tensors differ that a LoRA does not hold, such as {key}" in text


def test_large_matrices_are_decomposed_by_sampling():
    """Exact for a matrix of the wanted rank; close to the best for others."""
    from training.lowrank import truncated_svd
    from training.rng import generator

    random = torch.Generator().manual_seed(0)
    low = torch.randn(700, 12, generator=random) @ torch.randn(12, 600, generator=random)
    u, s, v = truncated_svd(low, 12, generator("x"))
    torch.testing.assert_close(u * s @ v, low, atol=2e-3, rtol=1e-4)
    full = torch.randn(700, 600, generator=random)
    full = full * torch.logspace(0, -2, 600)
    values = torch.linalg.svdvals(full)
    u, s, v = truncated_svd(full, 16, generator("x"))
    torch.testing.assert_close(s, values[:16], atol=0, rtol=1e-2)
    error = (full - u * s @ v).square().sum()
    assert error <= 1.02 * values[16:].square().sum()


# ---------------------------------------------------------------------------------- refusals


def test_inputs_are_never_overwritten(make_lora, command, tmp_path):
    path = make_lora("zoe", {"rank": 4})
    before = path.read_bytes()
    link = tmp_path / "link.safetensors"
    os.link(path, link)
    for words in (
        ("convert", path, "-o", path, "--force"),
        ("resize", path, "--rank", "2", "-o", link, "--force"),
        ("merge", path, path, "-o", path, "--force"),
    ):
        code, _, error = command(*words)
        assert code == 2 and "is an input" in error
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"mine")
    code, _, error = command("convert", path, "-o", other)
    assert code == 2 and "exists" in error and other.read_bytes() == b"mine"
    assert command("convert", path, "-o", other, "--force")[0] == 0
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_a_failed_write_leaves_nothing(make_lora, command, tmp_path, tiny_checkpoint):
    """A weight that overflows is found in the middle of a checkpoint."""
    tensors = {k: v.half() for k, v in load_file(tiny_checkpoint).items() if v.is_floating_point()}
    half = tmp_path / "half.safetensors"
    save_file(tensors, half)
    path = make_lora("zoe", {"rank": 4}, size=30.0)
    out = tmp_path / "out.safetensors"
    words = ("merge", path, "--weights", "100", "--into", half, "-o", out)
    code, _, error = command(*words, base=False)
    assert code == 2 and "would overflow in torch.float16" in error
    code, _, error = command("merge", path, "-o", out, "--weights", "100", "--precision", "fp16")
    assert (code == 0) is out.exists()
    out.unlink(missing_ok=True)
    assert not list(tmp_path.glob("*.part"))


def mangled(kind: str, good: bytes, tensors: dict) -> bytes:
    from safetensors.torch import save

    first = next(k for k in tensors if k.endswith("down.weight"))
    changed = dict(tensors)
    if kind == "truncated":
        return good[: len(good) // 2]
    if kind == "empty":
        return b""
    if kind == "text":
        return b"<html>not found</html>"
    if kind == "huge header":
        return (2**62).to_bytes(8, "little") + good[8:]
    if kind == "not finite":
        changed[first] = torch.full_like(changed[first], float("inf"))
    if kind == "half a layer":
        del changed[first]
    if kind == "wrong shapes":
        changed[first] = torch.ones(3, 5)
    if kind == "a checkpoint":
        changed = {"model.diffusion_model.out.2.weight": torch.ones(4, 4)}
    if kind == "a stray key":
        changed["bundle_emb.zoe"] = torch.ones(4)
    return save(changed)


BAD = {
    "truncated": "truncated or damaged",
    "empty": "truncated or damaged",
    "text": "truncated or damaged",
    "huge header": "truncated or damaged",
    "not finite": "holds NaN or infinity in lora_down.weight",
    "half a layer": "its partner is missing",
    "wrong shapes": "do not fit together",
    "a checkpoint": "is no LoRA: its first key is 'model.diffusion_model.out.2.weight'",
    "a stray key": "key 'bundle_emb.zoe' is no part of an adapter",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named(make_lora, command, tmp_path, kind):
    import re

    path = make_lora("zoe", {"rank": 4})
    good = path.read_bytes()
    tensors = load(good)  # not mapped: Windows lets nobody write a mapped file
    path.write_bytes(mangled(kind, good, tensors))
    out = tmp_path / "out.safetensors"
    code, _, error = command("resize", path, "-o", out, "--rank", "2")
    assert code == 2 and re.search(BAD[kind], error), error
    assert "zoe" in error and error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("convert", "missing.safetensors", "-o", "out.safetensors"), "does not exist"),
        (("convert", "a.ckpt", "-o", "out.safetensors"), "not a .safetensors file"),
        (("convert", "zoe.safetensors", "-o", "out.pt"), "must end with .safetensors"),
        (("resize", "zoe.safetensors", "-o", "out.safetensors"), "--rank, --energy"),
        (("merge", "zoe.safetensors", "-o", "out.safetensors", "--weights", "1,2"), "--weights"),
        (("merge", "zoe.safetensors", "-o", "out.safetensors", "--weights", "x"), "--weights"),
        (("extract", "zoe.safetensors", "-o", "out.safetensors"), "zoe.safetensors"),
    ],
)
def test_wrong_words_are_answered(make_lora, command, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    make_lora("zoe", {"rank": 4})
    (tmp_path / "a.ckpt").write_bytes(b"pickle")
    code, _, error = command(*words)
    assert code == 2 and message in error and error.count("\n") == 1


def test_lora_of_another_model_is_not_merged_into_a_checkpoint(command, tmp_path, tiny_checkpoint):
    stem = "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_k"
    tensors = {f"{stem}.lora_down.weight": torch.ones(2, 8)}
    tensors[f"{stem}.lora_up.weight"] = torch.ones(8, 2)
    path, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    save_file(tensors, path)
    words = ("merge", path, "--into", tiny_checkpoint, "-o", out)
    code, _, error = command(*words, base=False)
    assert code == 2 and "made for another model" in error and not out.exists()
