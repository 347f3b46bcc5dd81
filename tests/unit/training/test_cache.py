"""What is cached equals what the libraries compute, and a damaged entry never gets into a run."""

import math
import os

import pytest
import torch

from training import DatasetError, merge, parse_job
from training.buckets import place_image
from training.cache import encode
from training.plan import make_plan
from training.tensorfile import DamagedFile, read_tensors, write_tensors


@pytest.fixture
def plan(job_values):
    return make_plan(parse_job(job_values))


def quiet(*_):
    pass


def files(plan, kind):
    return sorted((plan.cache_dir / kind).glob("*.safetensors"))


def test_latents_and_text_equal_the_libraries(plan, tiny_models):
    data = encode(plan, ["a prompt"], quiet)
    assert len({p.bucket_size for p in plan.placements}) > 1
    for index, place in enumerate(plan.placements):
        batch = data.batch([index])
        with torch.no_grad():
            raw = tiny_models["vae"].encode(place_image(place)[None]).latents
        assert torch.equal(batch.latents, raw * 0.13025)
        (w, h), (left, top), (tw, th) = place.original_size, place.crop_left_top, place.bucket_size
        assert batch.time_ids.tolist() == [[h, w, top, left, th, tw]]
        assert batch.latents.shape[2:] == (th // 8, tw // 8)
    context, pooled = data.text("a prompt")
    assert context.shape == (77, 64) and pooled.shape == (32,)


def test_long_captions_are_cut_and_keep_their_end(plan, tokenizer_dir):
    from training.text import TextEncoding

    encoder = TextEncoding(plan.checkpoint, str(tokenizer_dir))
    long, short = encoder.tokens(["a" * 200, "a"])[0]
    assert len(long) == 77 and long[-1] == 49407 and long[0] == 49406
    ids_l, ids_g, cut = encoder.tokens(["a"])
    assert ids_l[0, 3:].tolist() == [49407] * 74
    assert ids_g[0, 3:].tolist() == [0] * 74
    assert encoder.tokens(["a" * 200])[2] == [True] and cut == [False]


def test_a_second_run_encodes_nothing(plan):
    encode(plan, [], quiet)
    before = {p: os.stat(p).st_mtime_ns for p in [*files(plan, "latents"), *files(plan, "text")]}
    assert len(before) == 2 * len(plan.placements)
    encode(plan, [], quiet)
    assert {p: os.stat(p).st_mtime_ns for p in before} == before


def test_damaged_entries_are_made_again(plan):
    encode(plan, [], quiet)
    for kind in ("latents", "text"):
        good = [path.read_bytes() for path in files(plan, kind)]
        truncated, flipped, empty, foreign = files(plan, kind)[:4]
        truncated.write_bytes(good[0][:-10])
        flipped.write_bytes(good[1][:-1] + bytes([good[1][-1] ^ 1]))
        empty.write_bytes(b"")
        foreign.write_bytes(b"not a tensor file at all")
        encode(plan, [], quiet)
        assert [path.read_bytes() for path in files(plan, kind)] == good


def test_entries_follow_what_they_were_made_from(job_values):
    plans = [
        make_plan(parse_job(merge(job_values, changes)))
        for changes in ({}, {"buckets": {"resolution": 80}}, {"dataset": {"trigger": "other"}})
    ]
    counts = []
    for plan in plans:
        encode(plan, [], quiet)
        counts.append((len(files(plan, "latents")), len(files(plan, "text"))))
    assert counts[1][0] > counts[0][0] and counts[1][1] == counts[0][1]
    assert counts[2][0] == counts[1][0] and counts[2][1] == 2 * counts[0][1]


def test_a_picture_that_becomes_nan_is_named(plan, monkeypatch):
    monkeypatch.setattr("training.checkpoint.LATENT_SCALE", math.nan)
    with pytest.raises(DatasetError, match="'p0.png' becomes NaN"):
        encode(plan, [], quiet)
    assert not files(plan, "latents")


def test_tensor_files_are_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "a" / "x.safetensors"
    tensors = {"b": torch.ones(3, dtype=torch.bfloat16), "s": torch.tensor(2.0), "e": torch.ones(0)}
    write_tensors(path, tensors, {"k": "v"})
    read, metadata = read_tensors(path)
    assert metadata == {"k": "v"} and all(torch.equal(read[k], tensors[k]) for k in tensors)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_tensors(path, {"b": torch.zeros(9)}, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]
    with pytest.raises(DamagedFile):
        read_tensors(tmp_path / "gone")
