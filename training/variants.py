"""The versions a caption is trained in: wildcards, alternatives, shuffled and dropped tags.

All of them are known before training, so the text encoders can leave memory; which one a step sees
is a function of (seed, position), as everything random here.
"""

import re
from collections.abc import Iterable

import torch

from .captions import holds_phrase
from .data_settings import CaptionSettings
from .records import DatasetItem
from .rng import generator

EMPTY = ""  # what caption dropout shows
_CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")
MAX_CHOICES = 100  # in one caption, nested ones included


class CaptionVariants:
    """The versions of captions under given settings.

    Args:
        settings: the section `captions` of a job.
        seed: the job's seed.
    """

    def __init__(self, settings: CaptionSettings, seed: int):
        self._settings = settings
        self._seed = seed
        self._made: dict[tuple[str, str], tuple[str, ...]] = {}

    def of(self, item: DatasetItem) -> tuple[str, ...]:
        """Every version of a picture's caption, equal ones included; one if nothing is random."""
        key = (item.caption, item.trigger)
        if key not in self._made:
            count = self._settings.variants if self._is_random(item) else 1
            self._made[key] = tuple(self._version(item, number) for number in range(count))
        return self._made[key]

    def all(self, items: Iterable[DatasetItem]) -> list[str]:
        """Every text that training may ask for, plain captions included, each once."""
        texts = [text for item in items for text in (self.plain(item), *self.of(item))]
        if self._settings.dropout:
            texts.append(EMPTY)
        return list(dict.fromkeys(texts))

    def choose(self, item: DatasetItem, position: int, slot: int) -> str:
        """What a picture is called in a batch.

        Args:
            position: of the batch in the run.
            slot: of the picture in the batch.
        """
        versions = self.of(item)
        if len(versions) == 1 and not self._settings.dropout:
            return versions[0]
        random = generator(self._seed, "caption of", position, slot)
        dropped, which = torch.rand(2, generator=random, dtype=torch.float64).tolist()
        if dropped < self._settings.dropout:
            return EMPTY
        return versions[int(which * len(versions))]

    def plain(self, item: DatasetItem) -> str:
        """The caption without chance: the first of every choice, all tags in order."""
        return self._framed(self._expanded(item.caption.partition("\n")[0], None))

    def _is_random(self, item: DatasetItem) -> bool:
        settings, caption = self._settings, item.caption
        if "\n" in caption or (settings.wildcards and _CHOICE.search(caption)):
            return True
        free = len(self._free(split_tags(caption), item.trigger))
        return bool(free and settings.tag_dropout) or (settings.shuffle and free > 1)

    def _version(self, item: DatasetItem, number: int) -> str:
        if not self._is_random(item):
            return self.plain(item)
        random = generator(self._seed, "caption", item.caption, item.trigger, number)
        lines = item.caption.split("\n")
        line = lines[_below(len(lines), random)] if len(lines) > 1 else lines[0]
        return self._framed(self._tagged(self._expanded(line, random), item.trigger, random))

    def _expanded(self, text: str, random: torch.Generator | None) -> str:
        """`text` with one option of every {a|b}; the first ones without a generator."""
        if not self._settings.wildcards:
            return text
        for _ in range(MAX_CHOICES):
            match = _CHOICE.search(text)  # the innermost first, so choices may be nested
            if match is None:
                break
            options = match[1].split("|")
            which = 0 if random is None else _below(len(options), random)
            text = text[: match.start()] + options[which].strip() + text[match.end() :]
        return text

    def _tagged(self, text: str, trigger: str, random: torch.Generator) -> str:
        settings, tags = self._settings, split_tags(text)
        if not (settings.shuffle or settings.tag_dropout):
            return text
        free = self._free(tags, trigger)
        if settings.shuffle:
            order = torch.randperm(len(free), generator=random).tolist()
            for place, tag in zip(free, [tags[free[i]] for i in order], strict=True):
                tags[place] = tag
        chances = torch.rand(len(free), generator=random, dtype=torch.float64).tolist()
        pairs = zip(free, chances, strict=True)
        dropped = {place for place, chance in pairs if chance < settings.tag_dropout}
        return ", ".join(tag for place, tag in enumerate(tags) if place not in dropped)

    def _free(self, tags: list[str], trigger: str) -> list[int]:
        """Places of the tags that may move or go."""
        keep = self._settings.keep_tags
        return [i for i, tag in enumerate(tags) if i >= keep and not holds_phrase(tag, trigger)]

    def _framed(self, text: str) -> str:
        parts = (self._settings.prefix, text, self._settings.suffix)
        return ", ".join(part.strip(" ,") for part in parts if part.strip(" ,"))


def split_tags(caption: str) -> list[str]:
    """The parts between commas."""
    return [tag.strip() for tag in caption.split(",") if tag.strip()]


def _below(count: int, random: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=random))
