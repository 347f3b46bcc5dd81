"""What an adapter file is: kinds, ranks, layers, metadata, and everything wrong with it."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .embedding_file import bundles_in, describe, is_embedding, say
from .lora_names import Names, model_of
from .lorafile import BINDING, LoraFile, read_safetensors
from .parts import complaint, kind_of, rank_in
from .tensorfile import data_digest

LONG = 200  # letters of a metadata value that are shown
SHOWN = 5  # layers or keys that a problem names
_BLOCKS = ("down_blocks", "mid_block", "up_blocks")


def inspect_file(file: LoraFile, names: Names) -> dict[str, Any]:
    """Everything about a file, ready for JSON."""
    kinds, ranks, alphas, types = Counter(), Counter(), Counter(), Counter()
    blocks: Counter = Counter()
    for name, parts in file.layers.items():
        kinds[_kind(parts)] += 1
        ranks[rank_in(parts)] += 1
        alphas[round(float(parts["alpha"]), 4) if "alpha" in parts else None] += 1
        types.update(str(t.dtype).removeprefix("torch.") for p, t in parts.items() if p != "alpha")
        blocks[_block(name, file, names)] += 1
    data = file.path.read_bytes()
    return {
        "file": file.path.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "content_sha256": data_digest(data),
        "naming": dict(file.naming),
        "kinds": dict(kinds),
        "layers": len(file.layers),
        "blocks": dict(sorted(blocks.items())),
        "targets": _targets(file),
        "ranks": {str(k): n for k, n in sorted(ranks.items(), key=str) if k is not None},
        "alphas": {str(k): n for k, n in sorted(alphas.items(), key=str)},
        "types": dict(types),
        "embeddings": [describe(name, t) for name, t in bundles_in(file.rest).items()],
        "parameters": sum(t.numel() for p in file.layers.values() for t in p.values()),
        "metadata": dict(sorted(file.metadata.items())),
        "problems": problems(file, data_digest(data)),
    }


def embedding_facts(path: Path) -> dict[str, Any] | None:
    """The same about a file that holds an embedding and nothing else, else None.

    Raises:
        FileError: it cannot be read.
    """
    tensors, metadata = read_safetensors(path)
    if not is_embedding(tensors):
        return None
    data = Path(path).read_bytes()
    facts = describe(Path(path).stem, tensors)
    return {
        "file": Path(path).name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "embeddings": [facts],
        "metadata": dict(sorted(metadata.items())),
        "problems": [] if facts["sound"] else ["its numbers are not finite: train it again"],
    }


def _kind(parts: Mapping[str, torch.Tensor]) -> str:
    kind = kind_of(parts) or "incomplete"
    return f"{kind} + dora" if kind != "dora" and "dora_scale" in parts else kind


def _block(name: str, file: LoraFile, names: Names) -> str:
    if name in file.foreign:
        return "unknown"
    model = model_of(name)
    if model != "unet":
        return model
    parts = name.split(".")
    if parts[0] not in _BLOCKS:
        return f"unet {parts[0]}"
    return f"unet {parts[0]}" + (f".{parts[1]}" if parts[0] != "mid_block" else "")


def _targets(file: LoraFile) -> list[str]:
    """What kinds of layers are adapted."""
    known = [n for n in file.layers if n not in file.foreign]
    tests = {
        "attention": lambda n: ".attn1." in n or ".attn2." in n,
        "feed forward": lambda n: ".ff." in n,
        "projections": lambda n: n.endswith(("proj_in", "proj_out")),
        "resnets": lambda n: ".resnets." in n,
        "samplers": lambda n: "samplers." in n,
        "text encoder 1": lambda n: n.startswith("text_encoder."),
        "text encoder 2": lambda n: n.startswith("text_encoder_2."),
    }
    return [label for label, test in tests.items() if any(test(n) for n in known)]


def problems(file: LoraFile, digest: str) -> list[str]:
    """What is wrong with a file or will surprise somebody, one line each."""
    out = []
    wrong = Counter(text for parts in file.layers.values() if (text := complaint(parts)))
    for text, count in wrong.most_common():
        first = next(n for n, parts in file.layers.items() if complaint(parts) == text)
        out.append(f"{count} layers cannot be used: each {text}, as {first}")
    for found, what in (
        (file.foreign, "layers belong to no SDXL model"),
        (file.strange, "keys are no part of an adapter"),
    ):
        if found:
            more = ", ..." if len(found) > SHOWN else ""
            out.append(f"{len(found)} {what}: {', '.join(found[:SHOWN])}{more}")
    limited = [n for n, p in file.layers.items() if "oft_blocks" in p and float(p.get("alpha", 0))]
    if limited:
        out.append(
            f"the rotations of {len(limited)} layers have a limit (alpha); LyCORIS multiplies it "
            "by the number of rows and ComfyUI does not, so it turns less than was trained"
        )
    out += file.remarks
    unread = [n for n in file.layers if ".attn" in n and n in file.diffusers_named]
    if unread:
        out.append(
            f"ComfyUI does not read diffusers' names of {len(unread)} attention layers: convert "
            "the file with --style kohya"
        )
    claimed = file.metadata.get("sshs_model_hash", "").removeprefix("0x")
    if claimed and claimed != digest:
        out.append("the content is not what the metadata's hash was made of: the file was changed")
    if not any(k.startswith(BINDING) for k in file.metadata):
        out.append("no metadata about the base model: some programs will not list the file")
    return out


def report(facts: dict[str, Any]) -> str:
    """The same for people."""
    if "layers" not in facts:
        lines = [f"{facts['file']}: an embedding of {facts['bytes']:,} bytes"]
        lines.append(f"to use it: embedding:{facts['embeddings'][0]['name']} in a prompt")
        return "\n".join(lines + _common(facts))
    lines = [
        f"{facts['file']}: {facts['bytes'] / 2**20:.1f} MiB, {facts['parameters']:,} numbers",
        f"kind: {_counted(facts['kinds'])}; names: {_counted(facts['naming'])}",
        f"layers: {facts['layers']} ({_counted(facts['blocks'])})",
        f"targets: {', '.join(facts['targets']) or 'unknown'}",
        f"ranks: {_counted(facts['ranks']) or 'none'}",
        f"alphas: {_counted(facts['alphas'])}; types: {_counted(facts['types'])}",
        f"content: {facts['content_sha256']}",
    ]
    return "\n".join(lines + _common(facts))


def _common(facts: dict[str, Any]) -> list[str]:
    lines = [say(about) for about in facts["embeddings"]] + [f"sha256: {facts['sha256']}"]
    lines += [f"  {key} = {_short(value)}" for key, value in facts["metadata"].items()]
    lines += [f"PROBLEM: {line}" for line in facts["problems"]] or ["no problems found"]
    return lines


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{key} x {n}" if n > 1 else str(key) for key, n in counts.items())


def _short(value: str) -> str:
    value = json.dumps(value, ensure_ascii=False)[1:-1]
    return value if len(value) <= LONG else f"{value[:LONG]}... ({len(value)} letters)"
