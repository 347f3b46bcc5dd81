"""Pictures and captions, encoded once: on disk by content, in memory while there is room.

After `encode` the VAE and the text encoders are out of memory; the loop only sees tensors.
"""

import gc
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from .augment import PictureVariants
from .buckets import Placement, place_image
from .checkpoint import load_vae
from .data_settings import TOKENS
from .errors import DatasetError, TrainingError
from .live_text import LiveText
from .masks import is_ignored, latent_mask, loss_weights
from .objective import Batch
from .plan import Plan
from .prune import mark_used, prune
from .tensorfile import DamagedFile, read_tensors, write_tensors
from .text import TextEncoding, stack_contexts
from .tokens import Tokenizer, tokenizer_digest
from .variants import CaptionVariants

log = logging.getLogger(__name__)

VERSION = 1  # of what is cached: raise it when the numbers change
AHEAD = 3  # pictures decoded before they are needed
MEMORY_LIMIT = 2 * 2**30  # bytes of encoded data kept in memory; the rest is read again

Progress = Callable[[str, int, int], None]  # phase, done, total; may raise to stop


@dataclass(frozen=True)
class Version:
    """One version of a picture: what is seen of it, and the files of its latents and mask."""

    placement: Placement
    latents: Path
    mask: Path | None


class Encoded:
    """The encoded dataset: latents per version of a picture, embeddings per text.

    Args:
        versions: of every placement, in order.
        texts: file of every text.
        warnings: what the user should know, one line each.
    """

    def __init__(
        self,
        plan: Plan,
        versions: Sequence[Sequence[Version]],
        texts: dict[str, Path],
        warnings: Sequence[str] = (),
    ):
        self._plan = plan
        self._versions = versions
        self._texts = texts
        self.warnings = list(warnings)
        self._captions = CaptionVariants(plan.job.captions, plan.job.seed)
        self._pictures = PictureVariants(plan.job.augment, plan.job.buckets.crop, plan.job.seed)
        self._memory: dict[Path, dict[str, torch.Tensor]] = {}
        self._bytes = 0
        self.live: LiveText | None = None  # encodes texts anew where text encoders are trained

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
        else:
            mark_used([path])  # it will be needed again: no other run may remove it
        return tensors

    def text(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(context (77 k, C), pooled (P,)) of one text, on the CPU where no text learns."""
        if self.live is None:
            return self._cached(text)
        pair = self.live.encode(text) if self.live.reads(text) else self._cached(text)
        return self._on_device(pair)  # both sorts can be in one batch

    def _cached(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        tensors = self._tensors(self._texts[text])
        return tensors["context"], tensors["pooled"]

    def _on_device(self, pair: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        context, pooled = (t.to(self._plan.device, self._plan.dtype) for t in pair)
        return context, pooled

    def captions(
        self, indices: Sequence[int], position: int | None = None, first_slot: int = 0
    ) -> list[str]:
        """What the pictures at `indices` are called; arguments as `batch`."""
        items = [self._versions[i][0].placement.item for i in indices]
        if position is None:
            return [self._captions.plain(item) for item in items]
        slots = enumerate(items, first_slot)
        return [self._captions.choose(item, position, slot) for slot, item in slots]

    def batch(
        self, indices: Sequence[int], position: int | None = None, first_slot: int = 0
    ) -> Batch:
        """The pictures at `indices`, which share one size, on the training device.

        Args:
            position: of the batch in the run: decides which versions of pictures and captions it
                shows; None for the first picture and the plain caption.
            first_slot: place of the first picture in the whole batch, where this is a part of it.
        """
        device = self._plan.device
        chosen = [self._version(i, position, s) for s, i in enumerate(indices, first_slot)]
        latents = [self._tensors(version.latents)["latents"] for version in chosen]
        captions = self.captions(indices, position, first_slot)
        texts = [self.text(t) for t in captions]
        places = [version.placement for version in chosen]
        held = self._held(places)
        return Batch(
            latents=torch.stack(latents).to(device, torch.float32),
            context=stack_contexts([t[0] for t in texts]).to(device),
            pooled=torch.stack([t[1] for t in texts]).to(device),
            # float32 whatever the model's type: bf16 cannot tell 1023 from 1024
            time_ids=torch.tensor([p.time_ids for p in places], dtype=torch.float32).to(device),
            mask=self._masks(chosen, position, first_slot),
            weights=self._weights(places),
            held=held,
            **self._base_text(places, captions, texts, held),
        )

    def _base_text(
        self,
        places: Sequence[Placement],
        captions: Sequence[str],
        texts: Sequence[tuple[torch.Tensor, torch.Tensor]],
        held: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """What captions mean to the model without adapter, where pictures are held to it."""
        if held is None or self.live is None:
            return {}
        pairs = [
            self._on_device(self._cached(text)) if place.item.prior else [t.detach() for t in pair]
            for place, text, pair in zip(places, captions, texts, strict=True)
        ]
        return {
            "base_context": stack_contexts([context for context, _ in pairs]),
            "base_pooled": torch.stack([pooled for _, pooled in pairs]),
        }

    def _version(self, index: int, position: int | None, slot: int) -> Version:
        versions = self._versions[index]
        if position is None:
            return versions[0]
        return versions[self._pictures.choose(len(versions), position, slot)]

    def _masks(
        self, chosen: Sequence[Version], position: int | None, first_slot: int
    ) -> torch.Tensor | None:
        job, masks = self._plan.job, []
        for slot, version in enumerate(chosen, first_slot):
            ignored = position is not None and is_ignored(job.masks, job.seed, position, slot)
            if version.mask is None or ignored:
                masks.append(None)
            else:
                mask = self._tensors(version.mask)["mask"]
                masks.append(loss_weights(mask, job.masks.unmasked_weight))
        if all(mask is None for mask in masks):
            return None
        ones = torch.ones(1, *(side // 8 for side in chosen[0].placement.bucket_size[::-1]))
        stacked = torch.stack([ones if mask is None else mask for mask in masks])
        return stacked.to(self._plan.device)

    def _weights(self, places: Sequence[Placement]) -> torch.Tensor | None:
        prior = self._plan.job.prior.weight
        weights = [p.item.weight * (prior if p.item.prior else 1.0) for p in places]
        if all(weight == 1 for weight in weights):
            return None
        return torch.tensor(weights, dtype=torch.float32).to(self._plan.device)

    def _held(self, places: Sequence[Placement]) -> torch.Tensor | None:
        held = [p.item.prior for p in places]
        if self._plan.job.prior.target == "picture" or not any(held):
            return None
        return torch.tensor(held).to(self._plan.device)


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
    captions = CaptionVariants(plan.job.captions, plan.job.seed)
    texts = captions.all(p.item for p in plan.encoded)
    texts = list(dict.fromkeys([*texts, *further_texts]))
    versions = _plan_versions(plan)
    _cache_latents(plan, versions, progress)
    warnings = _cache_masks(plan, versions)
    live = [t for t in texts if plan.words and plan.words.named_in(t)]
    # prompts, and pictures held to the model, are also shown without what is learnt: there the word
    # is what it always was
    bare = {*further_texts}
    if plan.job.prior.target == "model":
        bare |= {*captions.all(p.item for p in plan.encoded if p.item.prior)}
    cached = [t for t in texts if t not in live or t in bare]
    text_files, lengths = _cache_texts(plan, cached, progress)
    lengths |= _live_lengths(plan, live)
    warnings += _too_long(plan, captions, lengths)
    files = {v.latents for several in versions for v in several}
    files |= {v.mask for several in versions for v in several if v.mask} | {*text_files.values()}
    mark_used(files)
    if plan.job.cache.limit_gb:
        prune(plan.cache_dir, int(plan.job.cache.limit_gb * 2**30), files)
    return Encoded(plan, versions, text_files, warnings)


def _key(*parts: object) -> str:
    return hashlib.sha256(repr((VERSION, *parts)).encode()).hexdigest()


def _is_valid(path: Path) -> bool:
    return _valid_metadata(path) is not None


def _valid_metadata(path: Path) -> dict[str, str] | None:
    """What an entry says about itself, None where there is no sound one."""
    if not path.exists():
        return None
    try:
        return read_tensors(path)[1]
    except DamagedFile as error:
        log.warning("Cache entry is damaged and is made again: %s", error)
        return None


def _plan_versions(plan: Plan) -> list[list[Version]]:
    """Every version of every placement, with the names of its files, which need not exist."""
    vae_digest = plan.checkpoint.fingerprint("vae")
    pictures = PictureVariants(plan.job.augment, plan.job.buckets.crop, plan.job.seed)
    versions = []
    for placement in plan.encoded:
        several = []
        trained = len(versions) < len(plan.placements)  # what is held out is measured as it is
        for place in pictures.of(placement) if trained else (placement,):
            item = place.item
            geometry = (place.bucket_size, place.resized, place.crop_left_top)
            more = (place.flip, place.colour) if place.flip or place.colour else ()
            key = _key(item.digest, *geometry, vae_digest, *more)
            latents = plan.cache_dir / "latents" / f"{key}.safetensors"
            mask = None
            if item.mask_path is not None:
                alpha = item.mask_path == item.path
                key = _key(item.mask_digest, alpha, item.mask_inverted, *geometry, place.flip)
                mask = plan.cache_dir / "masks" / f"{key}.safetensors"
            several.append(Version(place, latents, mask))
        versions.append(several)
    return versions


def _cache_latents(plan: Plan, versions: Sequence[Sequence[Version]], progress: Progress) -> None:
    places = {v.latents: v.placement for several in versions for v in several}  # twins share one
    missing = [path for path in places if not _is_valid(path)]
    done = len(places) - len(missing)
    progress("latents", done, len(places))
    if missing:
        vae = load_vae(plan.checkpoint, torch.float32, plan.device)
        samples = _prepared([places[path] for path in missing])
        for path, pixels in zip(missing, samples, strict=True):
            _encode_picture(plan, vae, places[path], pixels, path)
            done += 1
            progress("latents", done, len(places))
        del vae
        _release(plan.device)


def _prepared(places: Sequence[Placement]) -> Iterator[torch.Tensor]:
    """The samples in order; the next ones are decoded and scaled while the VAE is at work."""
    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(AHEAD)
    try:
        for place in places:
            waiting.append(pool.submit(place_image, place))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _cache_masks(plan: Plan, versions: Sequence[Sequence[Version]]) -> list[str]:
    """Bring masks to the latents' size; returns warnings about masks that say nothing."""
    warnings = []
    for version in (v for several in versions for v in several if v.mask):
        path, metadata = version.mask, _valid_metadata(version.mask)
        if metadata is None:
            mask = latent_mask(version.placement)
            metadata = {"empty": str(int(not mask.any()))}
            write_tensors(path, {"mask": mask}, metadata)
        if metadata.get("empty") == "1":
            whole = plan.job.masks.unmasked_weight > 0
            effect = "it is learnt whole" if whole else "nothing is learnt from it"
            name = version.placement.item.path.name
            warnings.append(
                f"{name}: what its crop shows lies outside of its mask, so {effect}; "
                "choose another buckets.crop or mask."
            )
    return list(dict.fromkeys(warnings))


def _encode_picture(plan: Plan, vae, place: Placement, pixels: torch.Tensor, path: Path) -> None:
    pixels = pixels.unsqueeze(0).to(plan.device)
    # float32: SDXL's VAE overflows in fp16, and bf16 blurs what the model should learn
    latents = vae.encode(pixels)[0].float().cpu()
    if not torch.isfinite(latents).all():
        raise DatasetError(
            f"Picture {place.item.path.name!r} becomes NaN or infinite in the VAE of "
            f"{plan.checkpoint.path.name!r}: remove it, or choose another checkpoint."
        )
    write_tensors(path, {"latents": latents}, {})


def _cache_texts(
    plan: Plan, texts: Sequence[str], progress: Progress
) -> tuple[dict[str, Path], dict[str, int]]:
    """(file, length in tokens) of every text."""
    digest = plan.checkpoint.fingerprint("text_l", "text_g")
    tokenizer = tokenizer_digest(plan.job.base.tokenizer)
    limit = plan.job.captions.max_tokens
    files, lengths, missing = {}, {}, []
    for text in texts:
        key = _key(text, digest, tokenizer, plan.precision, limit)
        files[text] = plan.cache_dir / "text" / f"{key}.safetensors"
        metadata = _valid_metadata(files[text])
        if metadata is None or not metadata.get("tokens", "").isdigit():
            missing.append(text)
        else:
            lengths[text] = int(metadata["tokens"])
    done = len(texts) - len(missing)
    progress("text", done, len(texts))
    if missing:
        encoder = TextEncoding(plan.checkpoint, plan.job.base.tokenizer, torch.float32, plan.device)
        stored = torch.float32 if plan.precision == "fp32" else torch.float16
        for text in missing:  # one by one: a batch's make-up would change the last bits
            context, pooled, lengths[text] = encoder.encode_long(text, limit)
            tensors = {"context": context.to(stored), "pooled": pooled.to(stored)}
            write_tensors(files[text], tensors, {"tokens": str(lengths[text])})
            done += 1
            progress("text", done, len(texts))
        del encoder
        _release(plan.device)
    return files, lengths


def _live_lengths(plan: Plan, texts: Sequence[str]) -> dict[str, int]:
    """Tokens of texts that hold new words, their vectors counted."""
    if not texts:
        return {}
    tokenizer, limit = Tokenizer(plan.job.base.tokenizer), plan.job.captions.max_tokens
    return {text: tokenizer.chunks(text, limit, plan.words)[2] for text in texts}


def _too_long(plan: Plan, captions: CaptionVariants, lengths: dict[str, int]) -> list[str]:
    """A warning for every picture whose caption is cut, and for prompts that are."""
    limit, warnings, known = plan.job.captions.max_tokens, [], set()
    remedy = "shorten it" if limit == TOKENS[-1] else "raise captions.max_tokens or shorten it"
    for item in dict.fromkeys(p.item for p in plan.encoded):
        texts = [captions.plain(item), *captions.of(item)]
        known.update(texts)
        length = max(lengths[text] for text in texts)
        if length > limit:
            warnings.append(
                f"{item.path.name}: its caption has {length} tokens and {limit} are read: {remedy}."
            )
    for text, length in lengths.items():
        if text not in known and length > limit:
            warnings.append(
                f"Prompt {text[:40]!r}... has {length} tokens and {limit} are read: {remedy}."
            )
    return warnings


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
