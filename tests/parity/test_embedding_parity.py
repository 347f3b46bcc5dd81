"""The file of a new word in ComfyUI: `embedding:NAME` gives the conditioning that was trained."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tools.inprocess import load_pack
from tools.server import ROOT
from training import parse_job
from training.adapter import add_adapter
from training.checkpoint import load_unet
from training.embedding_file import bundled, write_embeddings
from training.export import lora_tensors, write_lora
from training.live_text import LiveText
from training.plan import make_plan

LIMIT = 1e-5


@pytest.fixture(scope="module")
def nano_in_comfy(comfy, nano, tmp_path_factory):
    load_pack(ROOT / "demo" / "companion")
    from comfy.sd import load_checkpoint_guess_config

    folder = tmp_path_factory.mktemp("embeddings")
    model, clip, _, _ = load_checkpoint_guess_config(
        str(nano.checkpoint), embedding_directory=[str(folder)]
    )
    for part in (clip.cond_stage_model.clip_l, clip.cond_stage_model.clip_g):
        part.float()
    return SimpleNamespace(model=model, clip=clip, path=nano.checkpoint, folder=folder)


@pytest.fixture
def trained(nano_in_comfy, comfy, tmp_path):
    """trained(vectors) -> plan, adapter with random vectors and the encoders that read them."""
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a photo", "utf-8")

    def make(vectors: int, **sections):
        job = parse_job(
            {
                "name": "zoe",
                "base": {
                    "checkpoint": str(nano_in_comfy.path),
                    "tokenizer": str(comfy.path / "comfy" / "sd1_tokenizer"),
                },
                "dataset": {"folder": str(tmp_path), "trigger": "ohwx"},
                "embedding": {"vectors": vectors, "bundle": True},
                "memory": {"device": "cpu", "precision": "fp32"},
                "folders": {"runs": str(tmp_path / "runs")},
                **sections,
            }
        )
        plan = make_plan(job)
        live = LiveText(plan)
        adapter = add_adapter(load_unet(plan.checkpoint), job, live.models)
        random = torch.Generator().manual_seed(vectors)
        with torch.no_grad():
            for rows in adapter.words.parameters:
                rows.normal_(std=0.5, generator=random)
        return plan, adapter, live

    return make


def write(nano_in_comfy, plan, adapter, name: str) -> None:
    """The files of a run, under a name of their own."""
    for _, suffix, path in write_embeddings(plan.run_dir, adapter.state(), plan, {}):
        shutil.copyfile(path, nano_in_comfy.folder / f"{name}{suffix}.safetensors")


def same(nano_in_comfy, live, prompts: dict[str, str]) -> None:
    for ours, theirs in prompts.items():
        with torch.no_grad():
            context, pooled = live.encode(ours)
        with torch.inference_mode():
            tokens = nano_in_comfy.clip.tokenize(theirs)
            expected, first = nano_in_comfy.clip.encode_from_tokens(tokens, return_pooled=True)
        assert expected.shape[1:] == context.shape
        torch.testing.assert_close(context, expected[0], atol=LIMIT, rtol=LIMIT)
        torch.testing.assert_close(pooled, first[0], atol=LIMIT, rtol=LIMIT)


@pytest.mark.parametrize("vectors", [1, 3, 10])
def test_prompts_become_what_captions_became(nano_in_comfy, trained, vectors, caplog):
    """At any place, twice, at the end of 75 tokens, in long prompts."""
    plan, adapter, live = trained(vectors)
    name = f"zoe{vectors}"
    write(nano_in_comfy, plan, adapter, name)
    said = f"embedding:{name}"
    texts = [
        "ohwx",
        "OHWX, a photo of a red dress",
        "a photo of ohwx",
        "a photo of ohwx and ohwx on a bench",
        *(f"{'word ' * n}ohwx, on a bench" for n in (65, 70, 72, 73, 74, 75, 76, 148)),
        f"ohwx {'word ' * 80} ohwx",
    ]
    prompts = {t: t.replace("ohwx", said).replace("OHWX", said) for t in texts}
    same(nano_in_comfy, live, prompts)
    adapter.enable(False)
    same(nano_in_comfy, live, {"a photo of ohwx": "a photo of ohwx"})
    assert "does not exist" not in caplog.text and "shape mismatch" not in caplog.text


def test_several_words_in_one_prompt(nano_in_comfy, trained):
    words = {
        "embedding": {"vectors": 2, "words": "ohwx, red coat"},
        "captions": {"suffix": "red coat"},
    }
    plan, adapter, live = trained(2, **words)
    write(nano_in_comfy, plan, adapter, "cast")
    said = "a photo of embedding:cast_ohwx wearing embedding:cast_red_coat, on a bench"
    same(nano_in_comfy, live, {"a photo of ohwx wearing red coat, on a bench": said})


def test_together_with_trained_encoders(nano_in_comfy, trained, tmp_path):
    """A LoRA of both text encoders and the word, each from its own file, at once."""
    import comfy.sd

    rates = {"learning_rate_1": 1e-4, "learning_rate_2": 1e-4}
    plan, adapter, live = trained(
        2, text_encoders=rates, saving={"precision": "fp32"}, adapter={"rank": 4}
    )
    with torch.no_grad():
        for i, (_, pair) in enumerate(adapter.pairs()):
            pair.up.normal_(std=0.02, generator=torch.Generator().manual_seed(i))
    write(nano_in_comfy, plan, adapter, "both")
    tensors = lora_tensors(adapter.state(), plan.job, plan.checkpoint)
    write_lora(tmp_path / "both.safetensors", tensors, {"ss_v2": "False"}, plan.checkpoint)
    lora = load_file(tmp_path / "both.safetensors")
    _, clip = comfy.sd.load_lora_for_models(nano_in_comfy.model, nano_in_comfy.clip, lora, 1.0, 1.0)
    clip.load_model()
    with_lora = SimpleNamespace(**{**vars(nano_in_comfy), "clip": clip})
    try:
        same(with_lora, live, {"a photo of ohwx": "a photo of embedding:both"})
    finally:
        clip.patcher.unpatch_model()


def test_the_bundled_form(nano_in_comfy, trained, caplog, pack):
    """As an embedding ComfyUI reads it too; its LoRA loader complains, so it is not the default."""
    import comfy.sd

    plan, adapter, live = trained(2)
    vectors = bundled(adapter.state(), plan)
    assert set(vectors) == {"bundle_emb.zoe.clip_l", "bundle_emb.zoe.clip_g"}
    save_file(vectors, nano_in_comfy.folder / "inside.safetensors")
    same(nano_in_comfy, live, {"a photo of ohwx": "a photo of embedding:inside"})

    tensors = lora_tensors(adapter.state(), plan.job, plan.checkpoint) | vectors
    comfy.sd.load_lora_for_models(nano_in_comfy.model, None, tensors, 1.0, 1.0)
    assert "lora key not loaded: bundle_emb.zoe.clip_l" in caplog.text


def test_a_word_in_a_lora_is_known_to_its_clip(nano_in_comfy, trained, caplog, pack):
    """Before a file of that name, to this clip alone; off with the LoRA; two LoRAs, two words."""
    import importlib

    loras = importlib.import_module(f"{pack.__name__}.nodes.runtime.loras")
    plan, adapter, live = trained(2)
    layers = lora_tensors(adapter.state(), plan.job, plan.checkpoint)
    vectors = bundled(adapter.state(), plan)
    wrong = {key.split(".")[-1]: torch.ones_like(tensor) for key, tensor in vectors.items()}
    save_file(wrong, nano_in_comfy.folder / "zoe.safetensors")

    def applied(*files, weight=1.0):
        uses = [loras.LoraUse(f"f{i}", weight, weight, tensors=t) for i, t in enumerate(files)]
        _, clip, report = loras.apply_loras(nano_in_comfy.model, nano_in_comfy.clip, uses)
        return SimpleNamespace(**{**vars(nano_in_comfy), "clip": clip}), report

    prompts = {"a photo of ohwx": "a photo of embedding:zoe"}
    clip, report = applied(layers | vectors)
    same(clip, live, prompts)
    assert "f0: embedding:zoe in prompts of this clip" in report
    ann = {key.replace("zoe", "ann"): tensor for key, tensor in vectors.items()}
    both, _ = applied(layers | vectors, layers | ann)
    same(both, live, prompts | {"ohwx on a bench": "embedding:ann on a bench"})
    assert "not loaded" not in caplog.text.lower() and "does not exist" not in caplog.text

    for other in (nano_in_comfy, applied(layers | vectors, weight=0.0)[0]):
        with pytest.raises(AssertionError, match="not close"):
            same(other, live, prompts)
    model, none, report = loras.apply_loras(
        nano_in_comfy.model, None, [loras.LoraUse("f", 1.0, 1.0, tensors=layers | vectors)]
    )
    assert none is None and "connect clip" in report


@pytest.mark.parametrize("name", ["../zoe", "a/b", "..", "zoe maria", "C:zoe"])
def test_a_word_that_is_no_name_makes_no_file(nano_in_comfy, trained, pack, name):
    import importlib

    loras = importlib.import_module(f"{pack.__name__}.nodes.runtime.loras")
    plan, adapter, _ = trained(1)
    tensors = lora_tensors(adapter.state(), plan.job, plan.checkpoint)
    tensors[f"bundle_emb.{name}.clip_l"] = torch.ones(1, 64)
    _, clip, report = loras.apply_loras(
        nano_in_comfy.model, nano_in_comfy.clip, [loras.LoraUse("f", 1.0, 1.0, tensors=tensors)]
    )
    assert f"NOT loaded: bundle_emb.{name}.clip_l" in report
    assert clip.tokenizer is nano_in_comfy.clip.tokenizer
