"""Captions written by a local captioning model of the transformers library.

A model is a folder as the Hugging Face hub has them: config.json, weights as .safetensors, the
processor's and the tokenizer's files. Nothing is ever downloaded, and no code in it is run.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import TrainingError
from .packages import why_not

MAX_WORDS = 200
TOKENS_PER_WORD = 2
_TAG = re.compile(r"<[^<>\s]*>")  # what a tokenizer leaves of its special tokens


class CaptionerError(TrainingError):
    """No captioning model can be loaded from a folder."""

    kind = "captioner"


@dataclass(frozen=True)
class Family:
    """What is special about one model type.

    Attributes:
        prompt: asked where the user gives none.
        prompts_help: which prompts it understands.
        repeats_prompt: whether its answer begins with the prompt.
        bare_prompt: the prompt's tokens stand between a start token and the answer, without end.
    """

    model_type: str
    help: str
    prompt: str = ""
    prompts_help: str = "a beginning that it completes, for example 'a photo of'"
    repeats_prompt: bool = True
    bare_prompt: bool = False


FAMILIES = {
    f.model_type: f
    for f in (
        Family("blip", "BLIP: short captions, small and quick (about 1 GB)"),
        Family("blip-2", "BLIP-2: better captions, large"),
        Family("git", "GIT: short captions, small", bare_prompt=True),
        Family(
            "florence2",
            "Florence-2: short to very detailed captions, small",
            "<DETAILED_CAPTION>",
            "<CAPTION>, <DETAILED_CAPTION> or <MORE_DETAILED_CAPTION>",
            repeats_prompt=False,
        ),
    )
}


def model_type(folder: Path) -> str:
    """The type that a model folder's config.json names.

    Raises:
        CaptionerError: there is no readable config.json, or its type is not in FAMILIES.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is not JSON"
        raise CaptionerError(
            f"Captioner {folder.name!r}: its config.json cannot be read ({reason}); download the "
            "whole model folder again."
        ) from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in FAMILIES:
        raise CaptionerError(
            f"Captioner {folder.name!r}: type {kind!r} is not known; use one of "
            f"{', '.join(FAMILIES)}. Florence-2 must be in transformers' own format "
            "(model_type 'florence2')."
        )
    return kind


class Captioner:
    """A captioning model on one device, until it is dropped.

    Args:
        folder: the model, see the module.
        device, dtype: where and how precisely it computes.

    Raises:
        CaptionerError: files are missing or damaged; names the folder and says what to do.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.family = FAMILIES[model_type(folder)]
        self._device, self._dtype = device, dtype
        try:
            self._processor, self._model = _load(folder)
        except Exception as error:  # transformers meets missing files with many exception types
            if told := why_not(error):
                message = f"Captioner {folder.name!r} cannot be loaded. {told}"
                raise CaptionerError(message) from None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise CaptionerError(
                f"Captioner {folder.name!r} cannot be loaded ({reason}): its folder needs "
                "config.json, .safetensors weights, the processor's and the tokenizer's files."
            ) from None
        self._model.eval().to(device, dtype)

    @torch.no_grad()
    def caption(
        self, pixels_hwc: np.ndarray, prompt: str = "", max_words: int = 40, beams: int = 3
    ) -> str:
        """What a model says about a uint8 (height, width, 3) picture; the same each time.

        Args:
            prompt: see Family.prompts_help; "" for the family's own.
            max_words: longer answers are cut at a word.
            beams: width of the beam search; 1 = greedy, quicker.

        Raises:
            CaptionerError: the model does not understand the prompt.
        """
        from PIL import Image

        prompt = prompt.strip() or self.family.prompt
        try:
            inputs = self._inputs(Image.fromarray(pixels_hwc), prompt)
        except ValueError as error:
            raise CaptionerError(
                f"Prompt {prompt!r} does not fit this captioner ({error}): write "
                f"{self.family.prompts_help}."
            ) from None
        ids = self._model.generate(
            **inputs,
            max_new_tokens=max_words * TOKENS_PER_WORD + 4,
            num_beams=beams,
            do_sample=False,
        )
        text = self._processor.batch_decode(ids, skip_special_tokens=True)[0]
        return tidy(text, prompt if self.family.repeats_prompt else "", max_words)

    def _inputs(self, picture: Any, prompt: str) -> dict[str, torch.Tensor]:
        text = {"text": prompt} if prompt and not self.family.bare_prompt else {}
        inputs = dict(self._processor(images=picture, return_tensors="pt", **text))
        if prompt and self.family.bare_prompt:
            tokenizer = self._processor.tokenizer
            ids = tokenizer(prompt, add_special_tokens=False).input_ids
            inputs["input_ids"] = torch.tensor([[tokenizer.cls_token_id, *ids]])
        inputs.pop("token_type_ids", None)
        return {
            name: value.to(self._device, self._dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }


def _load(folder: Path) -> tuple[Any, Any]:
    import transformers

    # older releases know the same models under the name that came before
    loader = getattr(transformers, "AutoModelForImageTextToText", None)
    loader = loader or transformers.AutoModelForVision2Seq
    local = {"local_files_only": True, "trust_remote_code": False}
    processor = transformers.AutoProcessor.from_pretrained(folder, **local)
    # only .safetensors: a .bin file could run code
    model, info = loader.from_pretrained(
        folder, use_safetensors=True, output_loading_info=True, **local
    )
    missing = sorted(info["missing_keys"])
    if missing:  # they would be random, and so would the captions
        raise CaptionerError(f"{len(missing)} weights are missing, such as {missing[0]}")
    return processor, model


def tidy(text: str, prompt: str = "", max_words: int = MAX_WORDS) -> str:
    """A model's answer as a caption: one line, without its prompt, special tokens and full stop."""
    words = _TAG.sub(" ", text).split()
    start = prompt.lower().split()
    if start and [w.lower() for w in words[: len(start)]] == start:
        words = words[len(start) :]
    return " ".join(words[:max_words]).strip(" ,.;:")


def with_prefix(prefix: str, caption: str) -> str:
    """`prefix, caption`, or the one of them that there is."""
    return ", ".join(part.strip(" ,") for part in (prefix, caption) if part.strip(" ,"))


Progress = Callable[[int, int], None]  # pictures done, pictures in all; may raise to stop
Describe = Callable[[np.ndarray], str]  # uint8 (height, width, 3) -> caption


def caption_all(
    pictures_hwc: Sequence[np.ndarray], describe: Describe, prefix: str, progress: Progress
) -> list[str]:
    """One caption per picture, with the prefix; a float picture in [0, 1] is taken, too."""
    captions = []
    for picture in pictures_hwc:
        progress(len(captions), len(pictures_hwc))
        if picture.dtype != np.uint8:
            picture = np.rint(np.clip(np.nan_to_num(picture), 0, 1) * 255).astype(np.uint8)
        captions.append(with_prefix(prefix, describe(np.ascontiguousarray(picture[..., :3]))))
    progress(len(captions), len(captions))
    return captions
