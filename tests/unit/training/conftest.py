"""A very small SDXL checkpoint, a tokenizer and pictures for the training engine's tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench._mfu import SDXL

ROOT = Path(__file__).resolve().parents[3]
UNET = {
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 1],
    "attention_head_dim": [1, 1],
    "use_linear_projection": True,
    "cross_attention_dim": 64,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 6 * 256 + 32,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 1,
    "num_hidden_layers": 3,
    "projection_dim": 32,
    "vocab_size": 49408,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}


def make_models(seed: int = 0) -> dict:
    """Random models in float32: unet, text_l, text_g, vae (TAESD)."""
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        models = {
            "unet": UNet2DConditionModel(**UNET),
            "text_l": CLIPTextModel(CLIPTextConfig(**TEXT, hidden_act="quick_gelu")),
            "text_g": CLIPTextModelWithProjection(CLIPTextConfig(**TEXT, hidden_act="gelu")),
            "vae": AutoencoderTiny(),
        }
    return {k: m.eval().requires_grad_(False) for k, m in models.items()}


@pytest.fixture(scope="session")
def tiny_models() -> dict:
    return make_models()


@pytest.fixture(scope="session")
def sdxl_config() -> dict:
    """Arguments of the full SDXL UNet."""
    return dict(SDXL)


@pytest.fixture(scope="session")
def sdxl_unet():
    """The full SDXL UNet on the meta device: shapes without numbers. Do not change it."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**SDXL)


@pytest.fixture(scope="session")
def tiny_unet_config() -> dict:
    return dict(UNET)


@pytest.fixture(scope="session")
def tiny_tensors(tiny_models) -> dict:
    from training.keys import to_sgm_checkpoint

    states = [tiny_models[k].state_dict() for k in ("text_l", "text_g", "vae")]
    return to_sgm_checkpoint(tiny_models["unet"].state_dict(), UNET, *states)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_tensors, tmp_path_factory) -> Path:
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("models") / "tiny_sdxl.safetensors"
    save_file(tiny_tensors, path)
    return path


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory) -> Path:
    """CLIP's tokenizer without merges: every character is a token; the special ids are real."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    letters = [chr(b) for b in visible] + [chr(256 + i) for i in range(len(hidden))]
    words = letters + [letter + "</w>" for letter in letters]
    vocabulary = {w: i for i, w in enumerate(words)}
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Five pictures of three shapes with captions."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    sizes = [(64, 64), (96, 64), (64, 96), (80, 80), (96, 64)]
    random = np.random.default_rng(0)
    for i, (width, height) in enumerate(sizes):
        noise = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"p{i}.png")
        (folder / f"p{i}.txt").write_text(f"picture number {i}", "utf-8")
    return folder


@pytest.fixture
def job_values(tiny_checkpoint, tokenizer_dir, pictures, tmp_path) -> dict:
    """Values of a job that takes about a second."""
    return {
        "name": "tiny",
        "seed": 7,
        "base": {"checkpoint": str(tiny_checkpoint), "tokenizer": str(tokenizer_dir)},
        "dataset": {"folder": str(pictures), "trigger": "zoe"},
        "buckets": {"resolution": 64, "step": 16},
        "adapter": {"rank": 4, "alpha": 2.0},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"steps": 4},
        "memory": {"device": "cpu"},
        "samples": {"steps": 2, "at_end": False},
        "folders": {"runs": str(tmp_path / "runs"), "cache": str(tmp_path / "cache")},
    }


@pytest.fixture
def make_loop(job_values):
    """make_loop(changes) -> (plan, adapter, data, loop) of a job, encoded and ready to step."""
    from training import merge, parse_job
    from training.adapter import add_adapter
    from training.cache import encode
    from training.checkpoint import load_unet
    from training.live_text import LiveText
    from training.loop import Loop
    from training.plan import make_plan
    from training.preview import needed_texts

    def make(changes: dict | None = None):
        plan = make_plan(parse_job(merge(job_values, changes or {})))
        data = encode(plan, needed_texts(plan), lambda *_: None)
        unet = load_unet(plan.checkpoint, plan.dtype, plan.device)
        data.live = LiveText(plan) if plan.job.reads_live else None
        adapter = add_adapter(unet, plan.job, data.live.models if data.live else ())
        return plan, adapter, data, Loop(plan, adapter, data)

    return make


@pytest.fixture
def train(job_values):
    """train(changes) -> (outcome, events): run a job in this process."""
    import io

    from training import Events, merge, parse_job, run_job

    def run(changes: dict | None = None, should_stop=lambda: False):
        stream = io.StringIO()
        job = parse_job(merge(job_values, changes or {}))
        outcome = run_job(job, Events(stream), should_stop)
        return outcome, [json.loads(line) for line in stream.getvalue().splitlines()]

    return run


@pytest.fixture
def start_process(tmp_path):
    """start_process(values, *arguments) -> Popen of the training program by file path."""
    processes = []

    def start(values: dict, *arguments: str, cwd: Path | None = None) -> subprocess.Popen:
        path = tmp_path / "job.json"
        path.write_text(json.dumps(values), "utf-8")
        command = [sys.executable, str(ROOT / "training" / "__main__.py"), str(path), *arguments]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(tmp_path / "stderr.txt", "ab"),
            cwd=cwd or tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
            encoding="utf-8",
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
