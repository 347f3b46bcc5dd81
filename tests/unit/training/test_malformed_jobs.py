"""Generated damage in jobs, checkpoints and the engine's own files: one line that names it, always.

No case may raise anything but one of the engine's own errors, and none may show a traceback.
"""

import io
import json
import struct
from itertools import pairwise
from string import ascii_lowercase

import pytest
import torch
from safetensors.torch import save_file

from training import CheckpointError, JobError, TrainingError, merge, open_checkpoint, parse_job
from training.cli import REFUSED, main
from training.plan import make_plan
from training.settings import load_job, override
from training.tensorfile import DamagedFile, read_tensors, write_tensors

# name: (text of the job file, words)
TEXTS = {
    "empty": ("", "'base' is missing"),
    "a list": ("- a\n- b\n", "not list"),
    "a number": ("3\n", "not int"),
    "a word": ("steps\n", "not str"),
    "open bracket": ("a: [1,\nb: }", "line 2"),
    "tab": ("base:\n\tcheckpoint: x\n", "line 2"),
    "open quote": ('name: "x\n', "not valid YAML"),
    "double anchor": ("a: *b\n", "line 1"),
    "python tag": ("a: !!python/object/apply:os.system [ls]\n", "line 1"),
    "unknown tag": ("a: !thing 3\n", "line 1"),
    "deep": ("a: " + "[" * 20_000 + "]" * 20_000, "too deep"),
    "control character": ("name: a\x07b\n", "not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2\n", "not valid YAML"),
    "broken JSON": ('{"base": {"checkpoint": "x"', "not valid YAML"),
    "laughing": (
        "a: &a [x, x]\n"
        + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in pairwise(ascii_lowercase)),
        "aliases stand for too many values",
    ),
    "laughing merges": (
        "a: &a {k: v}\n"
        + "".join(f"{c}: &{c} {{<<: [*{p}, *{p}]}}\n" for p, c in pairwise(ascii_lowercase)),
        "aliases stand for too many values",
    ),
    "in itself": ("a: &a [*a]\n", "nested too deep"),
    "number as name": ("1: 2\n", "1"),
    "section is a list": ("base: [x]\n", "'base'"),
    "section is text": ("base: x\n", "'base'"),
    "section is nothing": ("base:\n", "'base'"),
}

# name: (changes of a sound job, words)
VALUES = {
    "unknown section": ({"optimiser": {"kind": "adamw"}}, "did you mean 'optimizer'"),
    "unknown key": ({"schedule": {"stps": 3}}, "did you mean 'schedule.steps'"),
    "wrong section": ({"schedule": {"rank": 3}}, "did you mean 'adapter.rank'"),
    "text for a number": ({"schedule": {"steps": "many"}}, "'schedule.steps'"),
    "fraction for a whole": ({"schedule": {"steps": 2.5}}, "'schedule.steps'"),
    "list for a number": ({"adapter": {"rank": [4]}}, "'adapter.rank'"),
    "nothing for a number": ({"adapter": {"rank": None}}, "'adapter.rank'"),
    "number for text": ({"name": 3}, "'name'"),
    "mapping for text": ({"base": {"checkpoint": {"a": 1}}}, "'base.checkpoint'"),
    "not a number": ({"optimizer": {"learning_rate": float("nan")}}, "'optimizer.learning_rate'"),
    "infinite": ({"optimizer": {"learning_rate": float("inf")}}, "'optimizer.learning_rate'"),
    "infinite weight": ({"dataset": {"weight": float("inf")}}, "'dataset.weight'"),
    "negative": ({"optimizer": {"learning_rate": -1.0}}, "'optimizer.learning_rate'"),
    "zero steps": ({"schedule": {"steps": 0}}, "'schedule.steps'"),
    "endless steps": ({"schedule": {"steps": 10**12}}, "'schedule.steps'"),
    "absurd rank": ({"adapter": {"rank": 10**6}}, "'adapter.rank'"),
    "absurd batch": ({"batch": {"size": 10**9}}, "'batch.size'"),
    "absurd resolution": ({"buckets": {"resolution": 10**6}}, "'buckets.resolution'"),
    "odd resolution": ({"buckets": {"resolution": 100}}, "'buckets.resolution'"),
    "small resolution": ({"buckets": {"resolution": 16}}, "'buckets.resolution'"),
    "many resolutions": ({"buckets": {"further": [64] * 99}}, "'buckets.further'"),
    "bad further": ({"buckets": {"further": [7]}}, "'buckets.further.0'"),
    "unknown choice": ({"schedule": {"kind": "zigzag"}}, "'schedule.kind'"),
    "unknown crop": ({"buckets": {"crop": "middle"}}, "'buckets.crop'"),
    "unknown preset": ({"preset": "magic"}, "Unknown preset 'magic'"),
    "chance above one": ({"captions": {"dropout": 1.5}}, "'captions.dropout'"),
    "negative variants": ({"captions": {"variants": -1}}, "'captions.variants'"),
    "odd token limit": ({"captions": {"max_tokens": 77}}, "'captions.max_tokens'"),
    "mask weight": ({"masks": {"unmasked_weight": 2}}, "'masks.unmasked_weight'"),
    "hue": ({"augment": {"hue": 1}}, "'augment.hue'"),
    "device": ({"memory": {"device": "gpu; rm -rf /"}}, "'memory.device'"),
    "name with a path": ({"name": "../../etc/passwd"}, "'name'"),
    "name with a NUL": ({"name": "a\0b"}, "'name'"),
    "huge text": ({"metadata": {"author": "x" * 10**6}}, "'metadata.author'"),
    "many prompts": ({"samples": {"prompts": ["x"] * 999}}, "'samples.prompts'"),
    "template": ({"dataset": {"template": "{name}"}}, "'dataset.template'"),
    "unknown category": ({"dataset": {"categories": {"pets": {}}}}, "'dataset.categories"),
    "no endings": ({"dataset": {"extensions": []}}, "'dataset.extensions'"),
    "version of the future": ({"version": 99}, "'version'"),
    "timesteps": ({"objective": {"timestep_min": 900, "timestep_max": 100}}, "timestep"),
}


def one_line(error: BaseException) -> str:
    text = str(error)
    assert isinstance(error, TrainingError) and len(text) < 700, repr(error)
    assert text.isprintable() and text.strip(), repr(text)
    return text


@pytest.mark.parametrize("name", TEXTS)
def test_a_broken_job_file_is_named(tmp_path, name):
    text, words = TEXTS[name]
    path = tmp_path / "my_job.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(JobError) as caught:
        load_job(path)
    assert words in one_line(caught.value)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"name: \x80\x81", bytes(50)])
def test_a_job_file_of_bytes_is_named(tmp_path, data):
    path = tmp_path / "my_job.yaml"
    path.write_bytes(data)
    with pytest.raises(JobError, match=r"my_job\.yaml"):
        load_job(path)


@pytest.mark.parametrize("name", VALUES)
def test_an_impossible_setting_is_named(job_values, name):
    changes, words = VALUES[name]
    with pytest.raises(JobError) as caught:
        parse_job(merge(job_values, changes))
    assert words in one_line(caught.value)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("steps", "section.field=value"),
        ("schedule.steps=[", "schedule.steps"),
        ("schedule.steps=!!python/name:os.system", "schedule.steps"),
    ],
)
def test_a_bad_word_of_the_command_line_is_named(word, words):
    with pytest.raises(JobError) as caught:
        override([word])
    assert words in one_line(caught.value)


# ------------------------------------------------------------------------------------ checkpoints


def with_header(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(**changes) -> dict:
    return {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}}


DAMAGED = "damaged|unreadable header|truncated|not a safetensors file"
FILES = {  # bytes of the checkpoint file, words
    "empty": (b"", DAMAGED),
    "short": (b"\x01\x02", DAMAGED),
    "text": (b"<html>not found</html>" * 9, DAMAGED),
    "pickle": (b"\x80\x02}q\x00." + bytes(99), DAMAGED),
    "zip": (b"PK\x03\x04" + bytes(200), DAMAGED),
    "endless header": (struct.pack("<Q", 2**62) + bytes(40), DAMAGED),
    "header of noise": (with_header(b"\xff" * 40), DAMAGED),
    "deep header": (with_header(b"[" * 50_000), DAMAGED),
    "header is a list": (with_header([1, 2]), DAMAGED),
    "header is a number": (with_header(5), DAMAGED),
    "entry is a number": (with_header({"x": 5}), DAMAGED),
    "entry without shape": (with_header({"x": {"dtype": "F32"}}), DAMAGED),
    "shape is a number": (with_header(tensor(shape=3), bytes(4)), DAMAGED),
    "shape of text": (with_header(tensor(shape=["a"]), bytes(4)), DAMAGED),
    "negative shape": (with_header(tensor(shape=[-1]), bytes(4)), DAMAGED),
    "one offset": (with_header(tensor(data_offsets=[0]), bytes(4)), DAMAGED),
    "offsets of text": (with_header(tensor(data_offsets=["0", "4"]), bytes(4)), DAMAGED),
    "offsets backwards": (with_header(tensor(data_offsets=[4, 0]), bytes(4)), DAMAGED),
    "negative offsets": (with_header(tensor(data_offsets=[-4, 0]), b""), DAMAGED),
    "beyond the end": (with_header(tensor(data_offsets=[0, 400], shape=[100]), bytes(4)), DAMAGED),
    "metadata is a list": (with_header({"__metadata__": [1], **tensor()}, bytes(4)), DAMAGED),
    "no tensors": (with_header({}), DAMAGED),
    "one tensor": (with_header(tensor(), bytes(4)), "cannot be trained"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_named(tmp_path, name):
    data, words = FILES[name]
    path = tmp_path / "my_model.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(path).native_resolution  # noqa: B018
    assert "my_model.safetensors" in one_line(caught.value)


def renamed(tensors: dict, old: str, new: str) -> dict:
    return {k.replace(old, new): v for k, v in tensors.items()}


def small(*names: str) -> dict:
    return {name: torch.zeros(4, 4) for name in names}


SD15 = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
MODELS = {  # a model of another kind, or with a hole
    "SD 1.5": lambda t: {
        **{k: v for k, v in t.items() if "label_emb" not in k and "conditioner" not in k},
        SD15: torch.zeros(32, 768),
    },
    "Flux": lambda t: small(
        "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
        "model.diffusion_model.single_blocks.0.linear1.weight",
    ),
    "SD 3": lambda t: small("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"),
    "a LoRA": lambda t: small("lora_unet_input_blocks_1_1_proj_in.lora_down.weight"),
    "a VAE": lambda t: small("decoder.conv_in.weight", "encoder.conv_in.weight"),
    "diffusers UNet": lambda t: small("down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"),
    "no UNet": lambda t: {k: v for k, v in t.items() if "diffusion_model" not in k},
    "no text encoders": lambda t: {k: v for k, v in t.items() if "conditioner" not in k},
    "no second text encoder": lambda t: {k: v for k, v in t.items() if "embedders.1" not in k},
    "no VAE": lambda t: {k: v for k, v in t.items() if "first_stage" not in k and "taesd" not in k},
    "fp8 with scales": lambda t: {**t, "model.diffusion_model.out.2.weight_scale": torch.ones(1)},
    "refiner": lambda t: {**t, "conditioner.embedders.0.model.ln_final.weight": torch.ones(4)},
}


@pytest.mark.parametrize("name", MODELS)
def test_another_model_is_named_before_anything_starts(tiny_tensors, job_values, tmp_path, name):
    path = tmp_path / "my_model.safetensors"
    tensors = MODELS[name](tiny_tensors)
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path)
    with pytest.raises(CheckpointError) as caught:
        make_plan(parse_job(merge(job_values, {"base": {"checkpoint": str(path)}})))
    assert "my_model.safetensors" in one_line(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.int8])
def test_a_checkpoint_of_whole_numbers_is_named(tiny_tensors, tmp_path, dtype):
    from training.checkpoint import load_unet

    path = tmp_path / "my_model.safetensors"
    tensors = {k: v.to(dtype) if v.ndim == 2 else v for k, v in tiny_tensors.items()}
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        load_unet(open_checkpoint(path), torch.float32, "cpu")
    assert "my_model.safetensors" in one_line(caught.value)


PATHS = {
    "gone": lambda p: p / "gone.safetensors",
    "folder": lambda p: p,
    "pickle": lambda p: p / "model.ckpt",
    "empty name": lambda p: "",
    "NUL": lambda p: "a\0b.safetensors",
    "long": lambda p: "x" * 4000 + ".safetensors",
    "device": lambda p: "/dev/null",
}


@pytest.mark.parametrize("field", ["base.checkpoint", "base.tokenizer", "dataset.folder"])
@pytest.mark.parametrize("name", PATHS)
def test_an_impossible_path_is_named(job_values, tmp_path, field, name):
    section, key = field.split(".")
    values = merge(job_values, {section: {key: str(PATHS[name](tmp_path))}})
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02}q\x00.")
    (tmp_path / "job.json").write_text(json.dumps(values), "utf-8")
    with pytest.raises(TrainingError) as caught:
        make_plan(load_job(tmp_path / "job.json"))
    one_line(caught.value)


# -------------------------------------------------------------------------- the engine's own files


@pytest.mark.parametrize("name", [n for n in FILES if n not in ("no tensors", "one tensor")])
def test_a_damaged_tensor_file_is_never_believed(tmp_path, name):
    path = tmp_path / "state.safetensors"
    path.write_bytes(FILES[name][0])
    with pytest.raises(DamagedFile, match=r"state\.safetensors"):
        read_tensors(path)


def test_every_cut_and_every_flip_of_a_tensor_file_is_seen(tmp_path):
    path = tmp_path / "state.safetensors"
    write_tensors(
        path, {"a": torch.arange(6.0), "b": torch.ones(2, 3, dtype=torch.int8)}, {"k": "v"}
    )
    sound = path.read_bytes()
    start = 8 + int.from_bytes(sound[:8], "little")
    for length in range(len(sound)):
        path.write_bytes(sound[:length])
        with pytest.raises(DamagedFile):
            read_tensors(path)
    for place in range(start, len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 16]) + sound[place + 1 :])
        with pytest.raises(DamagedFile):
            read_tensors(path)


def test_the_program_refuses_without_a_traceback(tmp_path, job_values, caplog, monkeypatch):
    """The command line as it is; only signals and the descriptor of stdout stay pytest's."""
    stream = io.StringIO()
    monkeypatch.setattr("training.cli._stop_on_signals", lambda stop: None)
    monkeypatch.setattr("training.cli._claim_stdout", lambda: stream)
    cases = {
        "broken.yaml": "a: [1,\nb: }",
        "unknown.yaml": json.dumps(merge(job_values, {"schedule": {"stps": 1}})),
        "gone.json": json.dumps(merge(job_values, {"base": {"checkpoint": "gone.safetensors"}})),
        "nothing.json": json.dumps(merge(job_values, {"dataset": {"folder": "gone"}})),
    }
    for name, text in cases.items():
        (tmp_path / name).write_text(text, "utf-8")
        assert main([str(tmp_path / name)]) == REFUSED, name
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [e["event"] for e in events] == ["error"] * len(cases)
    assert [e["kind"] for e in events] == ["job", "job", "checkpoint", "dataset"]
    assert "Traceback" not in caplog.text


def test_there_are_many_cases():
    assert len(TEXTS) + len(VALUES) + len(FILES) + len(MODELS) + len(PATHS) >= 60
