"""Tensor files that are whole or not there: written beside, flushed, renamed, with a checksum.

A power cut or a full disk can leave a file of the right length with wrong bytes inside, so caches
and states carry a CRC-32 of their tensors; `read_tensors` believes no file without checking it.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch

from .wholefile import FileInUse, discard, is_same, patiently, whole_file

_CHECKSUM = "troupe.crc32"


class DamagedFile(Exception):
    """A tensor file is truncated, altered or not ours."""


def checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """CRC-32 over names, types, shapes and bytes, as 8 hex digits."""
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]):
    """Write a .safetensors file with a checksum; `path` appears only when complete.

    Raises:
        OSError: the disk is full or not writable, or another program has the file open; nothing
            is left behind.
    """
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    try:
        write_bytes(path, serialize(plain, {**metadata, _CHECKSUM: checksum(plain)}))
    except FileInUse as error:
        if error.kept and discard(error.kept):  # of no use to a person
            error.kept = None
        raise


def serialize(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A .safetensors file as bytes, always the same for the same content.

    The library writes metadata in an order of chance; here the header is sorted.
    """
    from safetensors.torch import save

    data = save(dict(tensors), dict(metadata))
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    ordered = {"__metadata__": dict(sorted(header.pop("__metadata__", {}).items()))}
    ordered |= dict(sorted(header.items(), key=lambda entry: (entry[1]["data_offsets"], entry[0])))
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[start:]


def data_digest(data: bytes) -> str:
    """sha256 of everything behind the header of a .safetensors file, as sd-scripts computes it."""
    start = 8 + int.from_bytes(data[:8], "little")
    return hashlib.sha256(memoryview(data)[start:]).hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that appears under its name only when complete and flushed to the disk.

    Raises:
        FileInUse: another program holds `path`; the finished file lies beside it.
        OSError: the disk is full or not writable; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_bytes(data)


def write_changed(path: Path, data: bytes) -> None:
    """`write_bytes`, unless the file holds just that: it may be open elsewhere."""
    if not is_same(path, data):
        write_bytes(path, data)


def read_tensors(
    path: Path, patient: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors, metadata) of a file made by `write_tensors`.

    Args:
        patient: a file that another program has open is waited for.

    Raises:
        DamagedFile: unreadable, truncated, altered, or without our checksum.
        FileInUse: only if `patient`; another program did not let go of it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        # no memory map: the file may be replaced while we hold it
        data = patiently(path.read_bytes, path) if patient else path.read_bytes()
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except FileInUse:
        raise
    except (OSError, SafetensorError, ValueError) as error:
        raise DamagedFile(f"{path.name}: {error}") from None
    if metadata.pop(_CHECKSUM, None) != checksum(tensors):
        raise DamagedFile(f"{path.name}: the checksum does not match")
    return tensors, metadata
