"""Pictures and captions, encoded once: on disk by content, in memory while there is room.

After `encode` the VAE and the text encoders are out of memory; the loop only sees tensors.
"""

import gc
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .buckets import place_image
from .checkpoint import load_vae
from .errors import DatasetError, TrainingError
from .objective import Batch
from .plan import Plan
from .tensorfile import DamagedFile, read_tensors, write_tensors
from .text import TextEncoding, tokenizer_digest

log = logging.getLogger(__name__)

VERSION = 1  # of what is cached: raise it when the numbers change
MEMORY_LIMIT = 2 * 2**30  # bytes of encoded data kept in memory; the rest is read again

Progress = Callable[[str, int, int], None]  # phase, done, total; may raise to stop


class Encoded:
    """The encoded dataset: latents per picture, embeddings per text.

    Args:
        latents: file of every placement, in order.
        texts: file of every text.
    """

    def __init__(self, plan: Plan, latents: Sequence[Path], texts: dict[str, Path]):
        self._plan = plan
        self._latents = list(latents)
        self._texts = texts
        self._memory: dict[Path, dict[str, torch.Tensor]] = {}
        self._bytes = 0

    def _tensors(self, path: Path) -> dict[str, torch.Tensor]:
        if path in self._memory:
            return self._memory[path]
        try:
            tensors, _ = read_tensors(path)
        except DamagedFile as error:
            raise TrainingError(
                f"A cache file was changed while training ({error}): start again."
            ) from None
        size = sum(t.nbytes for t in tensors.values())
        if self._bytes + size <= MEMORY_LIMIT:
            self._memory[path] = tensors
            self._bytes += size
        return tensors

    def text(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(context (77, C), pooled (P,)) of one text, on the CPU."""
        tensors = self._tensors(self._texts[text])
        return tensors["context"], tensors["pooled"]

    def batch(self, indices: Sequence[int]) -> Batch:
        """The pictures at `indices`, which share one size, on the training device."""
        device = self._plan.device
        places = [self._plan.placements[i] for i in indices]
        latents = [self._tensors(self._latents[i])["latents"] for i in indices]
        texts = [self.text(p.item.caption) for p in places]
        return Batch(
            latents=torch.stack(latents).to(device, torch.float32),
            context=torch.stack([t[0] for t in texts]).to(device),
            pooled=torch.stack([t[1] for t in texts]).to(device),
            # float32 whatever the model's type: bf16 cannot tell 1023 from 1024
            time_ids=torch.tensor([p.time_ids for p in places], dtype=torch.float32).to(device),
        )


def encode(plan: Plan, further_texts: Sequence[str], progress: Progress) -> Encoded:
    """Fill the caches for a plan.

    Args:
        further_texts: prompts needed beside the captions.
        progress: called before and after every piece of work.

    Raises:
        DatasetError: a picture cannot be read or encoded; names it.
        CheckpointError: the VAE or a text encoder is missing or damaged.
        OSError: the cache cannot be written.
    """
    captions = [p.item.caption for p in plan.placements]
    texts = list(dict.fromkeys([*captions, *further_texts]))
    latent_files = _cache_latents(plan, progress)
    text_files = _cache_texts(plan, texts, progress)
    return Encoded(plan, latent_files, text_files)


def _key(*parts: object) -> str:
    return hashlib.sha256(repr((VERSION, *parts)).encode()).hexdigest()


def _is_valid(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        read_tensors(path)
    except DamagedFile as error:
        log.warning("Cache entry is damaged and is made again: %s", error)
        return False
    return True


def _cache_latents(plan: Plan, progress: Progress) -> list[Path]:
    vae_digest = plan.checkpoint.fingerprint("vae")
    files = []
    for place in plan.placements:
        key = _key(
            place.item.digest, place.bucket_size, place.resized, place.crop_left_top, vae_digest
        )
        files.append(plan.cache_dir / "latents" / f"{key}.safetensors")
    missing = [i for i, path in enumerate(files) if not _is_valid(path)]
    done = len(files) - len(missing)
    progress("latents", done, len(files))
    if missing:
        vae = load_vae(plan.checkpoint, torch.float32, plan.device)
        for index in missing:
            if not files[index].exists() or not _is_valid(files[index]):  # twins share a file
                _encode_picture(plan, vae, index, files[index])
            done += 1
            progress("latents", done, len(files))
        del vae
        _release(plan.device)
    return files


def _encode_picture(plan: Plan, vae, index: int, path: Path) -> None:
    place = plan.placements[index]
    pixels = place_image(place).unsqueeze(0).to(plan.device)
    # float32: SDXL's VAE overflows in fp16, and bf16 blurs what the model should learn
    latents = vae.encode(pixels)[0].float().cpu()
    if not torch.isfinite(latents).all():
        raise DatasetError(
            f"Picture {place.item.path.name!r} becomes NaN or infinite in the VAE of "
            f"{plan.checkpoint.path.name!r}: remove it, or choose another checkpoint."
        )
    write_tensors(path, {"latents": latents}, {})


def _cache_texts(plan: Plan, texts: Sequence[str], progress: Progress) -> dict[str, Path]:
    digest = plan.checkpoint.fingerprint("text_l", "text_g")
    tokenizer = tokenizer_digest(plan.job.base.tokenizer)
    files = {}
    for text in texts:
        key = _key(text, digest, tokenizer, plan.precision)
        files[text] = plan.cache_dir / "text" / f"{key}.safetensors"
    missing = [t for t in texts if not _is_valid(files[t])]
    done = len(texts) - len(missing)
    progress("text", done, len(texts))
    if missing:
        encoder = TextEncoding(plan.checkpoint, plan.job.base.tokenizer, torch.float32, plan.device)
        stored = torch.float32 if plan.precision == "fp32" else torch.float16
        for text in missing:  # one by one: a batch's make-up would change the last bits
            context, pooled = encoder.encode([text])
            tensors = {"context": context[0].to(stored), "pooled": pooled[0].to(stored)}
            write_tensors(files[text], tensors, {})
            done += 1
            progress("text", done, len(texts))
        del encoder
        _release(plan.device)
    return files


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
