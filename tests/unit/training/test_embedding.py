"""A new word that is learnt beside the LoRA: vectors, captions, resume, file, errors."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file

from training import JobError, merge, open_checkpoint, parse_job
from training.embedding import draw_to_norm
from training.export import verify_lora
from training.plan import make_plan
from training.state import State, capture, restore

WORD = {"embedding": {"vectors": 2, "learning_rate": 5e-3, "until": 1.0}}
FREE = {"embedding": {**WORD["embedding"], "keep_norm": 0.0}}
STEADY = {"optimizer": {"weight_decay": 0.1}, "schedule": {"kind": "constant"}}
KEYS = ("embedding.clip_l", "embedding.clip_g")


def vectors(adapter) -> list[torch.Tensor]:
    return [adapter.state()[key].clone() for key in KEYS]


def test_only_the_new_rows_learn(make_loop):
    """With the UNet's rate at zero nothing but the vectors changes, in neither text encoder."""
    _, adapter, data, loop = make_loop({**WORD, **STEADY})
    tables = [m.get_input_embeddings().weight.clone() for m in data.live.models]
    before = {k: v.clone() for k, v in adapter.state().items()}
    assert [g["factor"] for g in adapter.groups()] == [1.0, 5.0]
    loop.updater.optimizer.param_groups[0]["factor"] = 0.0
    loop.step(0)
    loop.step(1)
    assert {k for k, v in adapter.state().items() if not torch.equal(v, before[k])} == set(KEYS)
    for model, table in zip(data.live.models, tables, strict=True):
        assert torch.equal(model.get_input_embeddings().weight, table)
        learning = [name for name, p in model.named_parameters() if p.requires_grad]
        assert len(learning) == 1 and learning[0].endswith("rows")


def test_the_gradient_is_that_of_a_plain_extended_vocabulary(make_loop, tiny_models, tokenizer_dir):
    """transformers: tokens added to the vocabulary, tables made longer, the same loss."""
    from transformers import CLIPTokenizer

    plan, adapter, data, loop = make_loop({**FREE, "batch": {"size": 2}})
    loop._loss([0, 3], 0)[1].backward()
    ours = [p.grad for p in adapter.words.parameters]

    tokenizer = CLIPTokenizer.from_pretrained(str(tokenizer_dir))
    contexts, pooled, tables = [], None, []
    captions = data.captions([0, 3], 0)
    assert all(c.startswith("zoe, picture") for c in captions)
    for part, start, pad in zip(("text_l", "text_g"), vectors(adapter), (49407, 0), strict=True):
        model = copy.deepcopy(tiny_models[part])
        model.resize_token_embeddings(49410, mean_resizing=False)
        table = model.get_input_embeddings().weight
        with torch.no_grad():
            table[49408:] = start
        tables.append(table.requires_grad_(True))
        rows = []
        for caption in captions:
            rest = tokenizer(caption.removeprefix("zoe")).input_ids[1:]
            ids = [49406, 49408, 49409, *rest]
            rows.append(ids + [pad] * (77 - len(ids)))
        output = model(torch.tensor(rows), output_hidden_states=True)
        contexts.append(output.hidden_states[-2])
        pooled = getattr(output, "text_embeds", None)
    batch = replace(data.batch([0, 3], 0), context=torch.cat(contexts, -1), pooled=pooled)
    from training.rng import generator

    draw = loop._objective.draw(batch.latents, generator(plan.job.seed, "noise", 0))
    loop._objective.losses(tiny_models["unet"], batch, draw, torch.float32).mean().backward()
    for mine, table in zip(ours, tables, strict=True):
        expected = table.grad[49408:]
        assert expected.abs().max() > 1e-5
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-7)


def test_shares_of_several_processes_add_up(make_loop):
    """Each process sees the whole batch's captions and learns from its own pictures."""
    from training.processes import Team

    _, adapter, _, loop = make_loop({**WORD, "batch": {"size": 2}})
    loop._loss([0, 3], 0)[1].backward()
    whole = [p.grad for p in adapter.words.parameters]
    parts = []
    for rank in range(2):
        _, adapter, _, loop = make_loop({**WORD, "batch": {"size": 2}})
        loop._team = Team(rank, 2, rank)
        loop._loss([0, 3], 0)[1].backward()
        parts.append([p.grad for p in adapter.words.parameters])
    for one, first, second in zip(whole, *parts, strict=True):
        assert first.abs().max() > 1e-5 and not torch.equal(first, second)
        torch.testing.assert_close(first + second, one, rtol=1e-4, atol=1e-7)


def test_texts_without_the_word_stay_cached(make_loop):
    prompts = {"samples": {"at_end": True, "prompts": ["a picture", "zoe smiles"]}}
    changes = {**WORD, **prompts, "captions": {"dropout": 0.5}}
    plan, adapter, data, loop = make_loop(changes)
    cached = {"", "a picture", "zoe smiles"}  # the last one for the picture without the LoRA
    assert set(data._texts) == cached
    assert len(list((plan.cache_dir / "text").glob("*"))) == 3
    word = {t: data.live.reads(t) for t in ("", "a picture", "zoe smiles", "ZOE!", "zoey", "a_zoe")}
    assert [t for t, live in word.items() if live] == ["zoe smiles", "ZOE!"]
    learnt = data.text("zoe smiles")[0]
    assert learnt.requires_grad and not data.text("a picture")[0].requires_grad
    adapter.enable(False)
    _, _, plain, _ = make_loop({**prompts, "captions": {"dropout": 0.5}})
    for text in cached:
        torch.testing.assert_close(data.text(text)[0], plain.text(text)[0], rtol=0, atol=0)
    adapter.enable(True)
    assert not torch.allclose(data.text("zoe smiles")[0], plain.text("zoe smiles")[0])
    for number in range(4):  # batches of either sort
        assert loop.step(number).loss > 0


def test_first_values(make_loop, tiny_models):
    """Of a text in turn, or noise as wide as the vocabulary."""
    from training.tokens import Tokenizer

    start = {"embedding": {"vectors": 3, "init": "ab"}}
    plan, adapter, _, _ = make_loop(start)
    numbers = Tokenizer(plan.job.base.tokenizer).numbers("ab")
    assert len(numbers) == 2
    for part, rows in zip(("text_l", "text_g"), vectors(adapter), strict=True):
        table = tiny_models[part].get_input_embeddings().weight
        assert torch.equal(rows, table[[numbers[0], numbers[1], numbers[0]]])
    _, adapter, _, _ = make_loop({"embedding": {"vectors": 64}})
    _, again, _, _ = make_loop({"embedding": {"vectors": 64}})
    for part, rows, same in zip(
        ("text_l", "text_g"), vectors(adapter), vectors(again), strict=True
    ):
        table = tiny_models[part].get_input_embeddings().weight
        assert rows.std() == pytest.approx(float(table.std()), rel=0.1) and torch.equal(rows, same)


def test_vectors_are_drawn_to_the_mean_length(make_loop):
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    draw_to_norm(rows, 1.0, 0.5)  # half of the way, by powers
    assert rows.norm(dim=1).tolist() == pytest.approx([5**0.5, 0.5**0.5])
    strict = {"embedding": {**WORD["embedding"], "keep_norm": 1.0, "learning_rate": 0.1}}
    _, adapter, data, loop = make_loop(strict)
    loop.step(0)
    for model, rows in zip(data.live.models, vectors(adapter), strict=True):
        mean = model.get_input_embeddings().weight.norm(dim=1).mean()
        torch.testing.assert_close(rows.norm(dim=1), mean.expand(2))


@pytest.mark.parametrize(
    "optimizer",
    [
        {"weights": "bf16"},
        {"kind": "lion"},
        {"kind": "adafactor"},
        {"kind": "other", "name": "torch.optim:NAdam"},
    ],
    ids=str,
)
def test_every_optimizer_moves_the_vectors_and_decays_none(make_loop, optimizer):
    """A step whose gradient is zero moves nothing: neither decay nor the other weights' type."""
    changes = {**FREE, "optimizer": {**optimizer, "weight_decay": 0.1}, "schedule": {"warmup": 0}}
    _, adapter, _, loop = make_loop(changes)
    before = vectors(adapter)
    for p in adapter.words.parameters:
        p.grad = torch.zeros_like(p)
    loop.updater.clip()
    loop.updater.step(0)
    loop.updater.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(before, vectors(adapter), strict=True))
    assert not loop.step(1).skipped
    after = vectors(adapter)
    assert all(
        torch.isfinite(a).all() and (a != b).any() for a, b in zip(after, before, strict=True)
    )


def test_the_vectors_rest_after_their_share_of_the_steps(make_loop):
    """Then texts are encoded once, and are what encoding them anew would give."""
    resting = {"embedding": {**WORD["embedding"], "until": 0.5}}
    _, adapter, data, loop = make_loop({**resting, **STEADY, "optimizer": {"ema_decay": 0.9}})
    learnt = []
    for number in range(4):
        loop.step(number)
        learnt.append(vectors(adapter))
    assert not torch.equal(learnt[0][0], learnt[1][0])
    assert all(torch.equal(a, b) for a, b in zip(learnt[1], learnt[3], strict=True))
    text = "zoe, picture number 1"
    once = data.text(text)[0]
    assert data.text(text)[0] is once
    torch.testing.assert_close(once, data.live._encode(text)[0].detach(), rtol=0, atol=0)
    with loop.updater.averaged():  # other vectors: another text
        assert not torch.equal(data.text(text)[0], once)
    assert torch.equal(data.text(text)[0], once)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_goes_on_bit_identical(make_loop, stop):
    """Before and after the step from which the vectors rest; with all that can learn along."""
    changes = {
        "embedding": {**WORD["embedding"], "until": 0.5},
        "optimizer": {"ema_decay": 0.9},
        "text_encoders": {"learning_rate_1": 5e-4},
        "captions": {"dropout": 0.3},
    }
    _, adapter, _, loop = make_loop(changes)
    for number in range(stop):
        loop.step(number)
    saved = copy.deepcopy(capture(State(step=stop), adapter, loop.updater))
    assert set(KEYS) <= set(saved.adapter)
    assert stop == 1 or set(KEYS) <= set(saved.average)  # until then the mean is the weights
    for number in range(stop, 4):
        loop.step(number)
    _, other, _, again = make_loop(changes)
    restore(saved, other, again.updater)
    for number in range(stop, 4):
        again.step(number)
    assert all(torch.equal(v, other.state()[k]) for k, v in adapter.state().items())
    for one, two in zip(loop.updater._mean, again.updater._mean, strict=True):
        assert torch.equal(one, two)


def test_the_files_of_a_run(train, tiny_checkpoint, tmp_path):
    """Stopped and resumed through the disk, the same embedding; float32 beside an fp16 LoRA."""
    changes = {**WORD, "saving": {"output": str(tmp_path / "out" / "zoe.safetensors")}}
    whole, events = train(changes)
    path = tmp_path / "out" / "zoe_embedding.safetensors"
    (made,) = events[-1]["embeddings"]
    assert made == {"word": "zoe", "suffix": "", "file": str(path), "inside": ""}
    tensors = load(path.read_bytes())  # not mapped: on Windows it could not be replaced
    assert {k: (tuple(v.shape), v.dtype) for k, v in tensors.items()} == {
        "clip_l": ((2, 32), torch.float32),
        "clip_g": ((2, 32), torch.float32),
    }
    with safe_open(path, "pt") as file:
        about = file.metadata()
    assert about["modelspec.architecture"].endswith("/textual-inversion")
    assert about["troupe.word"] == "zoe"
    assert not any(k.startswith("bundle_emb") for k in load_file(whole.lora))

    count = iter(range(100))
    elsewhere = {**changes, "folders": {"runs": str(tmp_path / "again")}}
    train(elsewhere, should_stop=lambda: next(count) > 20)
    train(elsewhere)
    again = load_file(path)
    assert all(torch.equal(tensors[k], again[k]) for k in tensors)


def test_bundled_into_the_lora(train, tiny_checkpoint, tmp_path, capsys):
    from training.files_cli import main

    bundle = {"embedding": {**WORD["embedding"], "bundle": True, "name": "Zoe-1"}}
    outcome, events = train({**bundle, "schedule": {"steps": 1}})
    tensors = load_file(outcome.lora)
    inside = {k for k in tensors if k.startswith("bundle_emb.")}
    assert inside == {"bundle_emb.Zoe-1.clip_l", "bundle_emb.Zoe-1.clip_g"}
    file = events[-1]["embeddings"][0]["file"]
    assert events[-1]["embeddings"][0]["inside"] == "Zoe-1"
    own = load_file(file)
    assert torch.equal(tensors["bundle_emb.Zoe-1.clip_g"], own["clip_g"])
    assert verify_lora(outcome.lora, open_checkpoint(tiny_checkpoint)) == 48
    base = ["--base", str(tiny_checkpoint)]
    assert main(["inspect", str(outcome.lora), *base]) == 0
    shown = capsys.readouterr().out
    assert "embedding Zoe-1: clip_" in shown and "no problems found" in shown
    resized = tmp_path / "small.safetensors"
    assert main(["resize", str(outcome.lora), "--rank", "2", "-o", str(resized), *base]) == 0
    assert inside <= set(load_file(resized)) and "is kept" in capsys.readouterr().out
    assert main(["inspect", file]) == 0
    assert "embedding embedding: clip_" in capsys.readouterr().out
    assert main(["inspect", file, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["embeddings"][0]["vectors"] == {"clip_g": 2, "clip_l": 2}


def test_several_words(make_loop, train, tmp_path, tiny_models):
    """Vectors of their own, in the order of the words; the longest fits; a file for each."""
    words = {
        "vectors": 2,
        "until": 1.0,
        "words": "zoe, picture number, Picture, zoe",
        "bundle": True,
    }
    plan, adapter, data, loop = make_loop({"embedding": {**words, "init": "a, bc, d"}})
    assert plan.words.words == ("zoe", "picture number", "Picture")
    found = plan.words.pieces("A Picture of ZOE: picture number 3, pictures")
    assert found == ["A ", 2, " of ", 0, ": ", 1, " 3, pictures"]
    ids = data.live._encoding.chunks("zoe, PICTURE", 75, plan.words)[0][0]
    new = [int(i) - (1 << 20) for i in ids if i >= 1 << 20]
    assert new == [0, 1, 4, 5]
    table = tiny_models["text_l"].get_input_embeddings().weight
    a, b, c, d = (data.live._encoding.tokenizer.numbers(x)[-1] for x in ("a", "x b", "bc", "d"))
    rows = vectors(adapter)[0]
    assert torch.equal(rows[[0, 1, 3, 4, 5]], table[[a, a, c, d, d]])
    loop.step(0)

    outcome, events = train({"embedding": words, "schedule": {"steps": 1}})
    made = events[-1]["embeddings"]
    assert [(m["word"], m["suffix"]) for m in made] == [
        ("zoe", "_zoe"),
        ("picture number", "_picture_number"),
        ("Picture", "_Picture"),
    ]
    lora, files = load_file(outcome.lora), [load_file(m["file"]) for m in made]
    assert all(f["clip_g"].shape == (2, 32) for f in files)
    assert torch.equal(lora["bundle_emb.tiny_picture_number.clip_l"], files[1]["clip_l"])
    assert not torch.equal(files[0]["clip_l"], files[1]["clip_l"])


@pytest.mark.parametrize(
    ("embedding", "dataset", "message"),
    [
        ({"words": "zoe, ohwx"}, {}, "no caption names 'ohwx'"),
        ({}, {"trigger": ""}, "the dataset has no trigger"),
        ({"words": "x"}, {"template": "x, {caption}"}, "'x' is a word the model knows"),
        ({"init": "abc"}, {}, "'abc' has 3 tokens for 2 vectors: raise embedding.vectors to 3"),
        ({"words": "zoe, picture", "init": "a, b, c"}, {}, "3 texts for the words zoe, picture"),
    ],
)
def test_what_cannot_be_learnt_is_named(job_values, embedding, dataset, message):
    changes = {"embedding": {"vectors": 2, **embedding}, "dataset": dataset}
    with pytest.raises(JobError, match=message):
        make_plan(parse_job(merge(job_values, changes)))


@pytest.mark.parametrize(
    "name", ["../zoe", "a/b", "a\\b", "C:zoe", "zoe.v2", "zoe 1", "a\0b", ".."]
)
def test_names_that_are_paths_are_refused(job_values, name):
    with pytest.raises(JobError, match="'embedding.name': should hold letters"):
        parse_job(merge(job_values, {"embedding": {"name": name}}))


@pytest.mark.parametrize("word", ["{a|b}", "a\nb"])
def test_words_that_captions_take_apart_are_refused(job_values, word):
    with pytest.raises(JobError, match="'embedding.words': should be words"):
        parse_job(merge(job_values, {"embedding": {"words": word}}))


def test_who_learns_no_word_has_the_same_run_as_ever(job_values):
    plain = make_plan(parse_job(job_values)).digest
    other = {"embedding": {"learning_rate": 1e-5, "name": "x"}}
    assert make_plan(parse_job(merge(job_values, other))).digest == plain
    named = [
        make_plan(parse_job(merge(job_values, {"embedding": {"vectors": 1, **more}}))).digest
        for more in ({}, {"words": "Zoe"}, {"name": "x", "bundle": True}, {"init": "a"})
    ]
    assert named[0] == named[1] == named[2] != named[3] and plain not in named
