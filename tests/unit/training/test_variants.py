"""Captions that vary, with cached text encoders: what a step reads, and that it is repeatable."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from training import DatasetSettings, merge, parse_job
from training.cache import encode
from training.data_settings import CaptionSettings
from training.dataset import read_dataset
from training.plan import make_plan
from training.records import DatasetItem
from training.text import TextEncoding, stack_contexts
from training.variants import CaptionVariants


def item(caption: str, trigger: str = "") -> DatasetItem:
    return DatasetItem(Path("a.png"), caption, trigger=trigger)


def variants(seed: int = 0, **settings) -> CaptionVariants:
    return CaptionVariants(CaptionSettings(**settings), seed)


def test_nothing_random_is_the_caption_itself():
    plain = variants()
    assert plain.of(item("zoe, a (b) {c} , d")) == ("zoe, a (b) {c} , d",)
    assert plain.all([item("x"), item("x"), item("y")]) == ["x", "y"]
    assert {plain.choose(item("x"), position, 0) for position in range(20)} == {"x"}


def test_prefix_and_suffix_frame_every_version():
    made = variants(prefix="photo", suffix="film, ", shuffle=True, variants=20).of(item("a, b"))
    assert set(made) == {"photo, a, b, film", "photo, b, a, film"}
    assert variants(prefix="photo").of(item("")) == ("photo",)


def test_shuffle_moves_all_but_the_kept_and_the_trigger():
    made = variants(shuffle=True, keep_tags=1, variants=200).of(item("A, b, zoe x, c, d", "zoe"))
    assert all(text.split(", ")[0] == "A" and text.split(", ")[2] == "zoe x" for text in made)
    assert {tuple(sorted(text.split(", "))) for text in made} == {("A", "b", "c", "d", "zoe x")}
    assert len(set(made)) == 6  # every order of b, c, d


def test_tag_dropout_has_its_rate_and_spares_the_trigger():
    tags = [f"t{n}" for n in range(10)]
    made = variants(tag_dropout=0.3, variants=256).of(item(", ".join(["zoe", *tags]), "zoe"))
    assert all(text.startswith("zoe") for text in made)
    kept = sum(text.count("t") for text in made) / (256 * 10)
    assert kept == pytest.approx(0.7, abs=0.03)
    assert variants(tag_dropout=1).of(item("a, b")) == ("",) * 8


def test_wildcards_and_lines_are_chosen_evenly():
    many = {"variants": 256}
    counts = Counter(variants(**many).of(item("a {red|blue} hat")))
    assert set(counts) == {"a red hat", "a blue hat"} and min(counts.values()) > 90
    nested = set(variants(**many).of(item("{x|{y|z} w}, {p|}")))
    firsts = {text.split(",")[0] for text in nested}
    assert firsts == {"x", "y w", "z w"} and len(nested) == 6
    lines = Counter(variants(**many).of(item("one\ntwo, three")))
    assert set(lines) == {"one", "two, three"} and min(lines.values()) > 90
    assert variants(wildcards=False).of(item("a {red|blue} hat")) == ("a {red|blue} hat",)


def test_endless_and_broken_braces_end():
    assert variants().of(item("{" * 500 + "a|b" + "}" * 500))
    assert variants().of(item("{a|b} {a|b} " * 300))
    assert variants().of(item("}{|"))[0] == "}{|"


def test_versions_follow_seed_and_text_alone():
    settings = {"shuffle": True, "tag_dropout": 0.2}
    text = item("a, b, c, d, e")
    assert variants(1, **settings).of(text) == variants(1, **settings).of(text)
    assert variants(1, **settings).of(text) != variants(2, **settings).of(text)
    more = variants(1, **settings, variants=16).of(text)
    assert more[:8] == variants(1, **settings).of(text)  # more versions keep the first ones


def test_choice_is_even_and_a_function_of_position_and_slot():
    some = variants(shuffle=True, dropout=0.25, variants=4)
    text = item("a, b, c, d, e")
    seen = [some.choose(text, position, 0) for position in range(1000)]
    assert seen == [some.choose(text, position, 0) for position in range(1000)]
    assert seen[:50] != [some.choose(text, position, 1) for position in range(50)]
    counts = Counter(seen)
    assert counts[""] == pytest.approx(250, abs=45)
    assert set(counts) <= set(some.all([text]))
    assert min(counts[t] for t in some.of(text)) > 120


def test_several_lines_of_a_caption_file(tmp_path, pictures):
    (tmp_path / "a.png").write_bytes((pictures / "p0.png").read_bytes())
    (tmp_path / "a.txt").write_text("a woman\n\n zoe at sea,\na woman\n", "utf-8")
    joined = read_dataset(tmp_path, DatasetSettings(trigger="zoe"))
    assert joined.items[0].caption == "a woman, zoe at sea, a woman"
    chosen = read_dataset(tmp_path, DatasetSettings(trigger="zoe", caption_lines="choose"))
    assert chosen.items[0].caption == "zoe, a woman\nzoe at sea"
    assert joined.digest != chosen.digest


def test_template_may_hold_choices(tmp_path, pictures):
    (tmp_path / "a.png").write_bytes((pictures / "p0.png").read_bytes())
    settings = DatasetSettings(trigger="zoe", template="{a photo, of|art of} {trigger}, {caption}")
    (found,) = read_dataset(tmp_path, settings).items
    assert found.caption == "{a photo, of|art of} zoe"
    assert set(variants(variants=50).of(found)) == {"a photo, of zoe", "art of zoe"}


# ------------------------------------------------------------------------------- with the cache


@pytest.fixture
def encoded(job_values):
    """encoded(changes) -> (plan, data)."""

    def make(changes: dict):
        plan = make_plan(parse_job(merge(job_values, changes)))
        return plan, encode(plan, [], lambda *_: None)

    return make


ALL = {"shuffle": True, "dropout": 0.3, "tag_dropout": 0.3, "variants": 3, "prefix": "p {x|y}"}


def test_a_batch_reads_the_embedding_of_what_it_is_called(encoded, tokenizer_dir):
    plan, data = encoded({"captions": ALL, "dataset": {"default_caption": "a, b, c"}})
    encoder = TextEncoding(plan.checkpoint, str(tokenizer_dir))
    seen = set()
    for position in range(12):
        indices = plan.sampler.batch(position)
        (text,) = data.captions(indices, position)
        context, pooled, _ = encoder.encode_long(text, 225)
        batch = data.batch(indices, position)
        assert torch.equal(batch.context[0], context) and torch.equal(batch.pooled[0], pooled)
        seen.add(text)
    assert len(seen) > 4 and "" in seen


def test_part_of_a_batch_is_what_the_whole_one_holds(encoded):
    plan, data = encoded({"captions": ALL, "batch": {"size": 2}})
    position = next(p for p in range(9) if len(plan.sampler.batch(p)) == 2)
    indices = plan.sampler.batch(position)
    whole, second = data.batch(indices, position), data.batch(indices[1:], position, 1)
    assert torch.equal(whole.pooled[1:], second.pooled)
    assert data.captions(indices, position)[1:] == data.captions(indices[1:], position, 1)


def test_long_captions_are_read_in_parts_and_mix(encoded, pictures, tmp_path, tokenizer_dir):
    for n, length in enumerate((10, 100, 200)):
        (tmp_path / f"{n}.png").write_bytes((pictures / "p0.png").read_bytes())
        (tmp_path / f"{n}.txt").write_text("ab " * (length // 2), "utf-8")
    changes = {"dataset": {"folder": str(tmp_path), "trigger": ""}, "batch": {"size": 3}}
    plan, data = encoded(changes)
    assert [len(data.text(p.item.caption)[0]) // 77 for p in plan.placements] == [1, 2, 3]
    assert data.warnings == []
    batch = data.batch([0, 1, 2])
    assert batch.context.shape[1] == 6 * 77
    encoder = TextEncoding(plan.checkpoint, str(tokenizer_dir))
    parts, _, length = encoder.chunks(plan.placements[2].item.caption, 225)
    assert parts.shape == (3, 77) and length == 200
    assert parts[:, 0].tolist() == [49406] * 3
    assert [row.tolist().index(49407) for row in parts] == [76, 76, 51]


def test_repeated_context_changes_nothing(make_loop, tiny_models):
    """A picture means the same beside one with a longer caption."""
    torch.manual_seed(0)
    short, long = torch.randn(77, 64), torch.randn(3 * 77, 64)
    stacked = stack_contexts([short, long])
    assert stacked.shape == (2, 3 * 77, 64) and torch.equal(stacked[1], long)
    latents, pooled, ids = torch.randn(2, 4, 8, 8), torch.randn(2, 32), torch.ones(2, 6) * 64

    def predict(rows, context):
        conditions = {"text_embeds": pooled[rows], "time_ids": ids[rows]}
        return tiny_models["unet"](latents[rows], 500, context, added_cond_kwargs=conditions)[0]

    with torch.no_grad():
        together = predict(slice(None), stacked)
        torch.testing.assert_close(together[:1], predict(slice(1), short[None]))
        torch.testing.assert_close(together[1:], predict(slice(1, 2), long[None]))


def test_a_caption_beyond_the_limit_is_named(encoded, train):
    folder = {"dataset": {"trigger": "w" * 100}, "captions": {"max_tokens": 75}}
    _, data = encoded(folder)
    assert len(data.warnings) == 5
    assert data.warnings[0].startswith("p0.png: its caption has 1")
    assert "75 are read: raise captions.max_tokens or shorten it" in data.warnings[0]
    _, again = encoded(folder)  # from the cache
    assert again.warnings == data.warnings
    _, events = train(merge(folder, {"schedule": {"steps": 1}}))
    warned = [e["message"] for e in events if e["event"] == "warning"]
    assert set(data.warnings) <= set(warned)
