"""Nodes of the menu section troupe/training that write captions."""

import os
from functools import partial
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy_api.v0_0_2 import io, ui

from ..training.captioner import FAMILIES, MAX_WORDS, Captioner, CaptionerError, caption_all
from ..training.errors import DatasetError
from ..training.folders import fingerprint
from ..training.sidecars import caption_folder, report
from .runtime.combos import listed
from .runtime.datasets import find_folder, folder_names, progress_callback
from .runtime.listings import files_below, only_text
from .runtime.paths import PathError, dataset_roots, find_below
from .runtime.trainer import free_models

CATEGORY = "troupe/training"
FOLDER = "captioners"  # below models/
NO_FOLDER = "none"
NO_MODEL = "put a model folder into models/captioners"

folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


class TroupeCaptionImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeCaptionImages",
            display_name="Caption Images",
            category=CATEGORY,
            search_aliases=["blip", "florence", "captioner", "image to text", "auto caption"],
            description="Describe pictures in words with a local captioning model, for training. "
            "Captions of a folder are written into .txt files beside the pictures, where they can "
            "be edited; one that is there already is kept.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=listed(_models(), NO_MODEL),
                    tooltip="A folder in ComfyUI's models/captioners with a model of the "
                    "transformers library. "
                    + "; ".join(f.help for f in FAMILIES.values())
                    + ". Nothing is downloaded.",
                ),
                io.Combo.Input(
                    "folder",
                    options=[NO_FOLDER, *folder_names()],
                    default=NO_FOLDER,
                    optional=True,
                    tooltip="A dataset folder in ComfyUI's input/ or datasets/: every picture "
                    "without a caption gets a .txt file.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Pictures from the graph, instead of a folder or beside it.",
                ),
                io.String.Input(
                    "prefix",
                    default="",
                    optional=True,
                    tooltip="Put before every caption. A trigger word need not be here: the "
                    "dataset nodes add theirs.",
                ),
                io.Int.Input(
                    "max_words",
                    default=40,
                    min=1,
                    max=MAX_WORDS,
                    optional=True,
                    tooltip="Longer captions are cut at a word. SDXL reads about 50 words at once.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    optional=True,
                    tooltip="Replace captions that are there already, edited ones as well.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="What the model is asked; empty: what suits it. "
                    + "; ".join(f"{f.model_type}: {f.prompts_help}" for f in FAMILIES.values())
                    + ".",
                ),
                io.Int.Input(
                    "beams",
                    default=3,
                    min=1,
                    max=8,
                    optional=True,
                    advanced=True,
                    tooltip="Width of the search for words: more is better and slower.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="captions",
                    is_output_list=True,
                    tooltip="One per picture, for Dataset from Images; those of the folder first.",
                ),
                io.String.Output(
                    display_name="report", tooltip="What was written, kept, and what failed."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None, folder: str | None = None) -> bool | str:
        try:
            if model is not None:
                _model_folder(model)
            if folder not in (None, NO_FOLDER):
                find_folder(folder)
        except (PathError, CaptionerError) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **_) -> str:
        try:
            return fingerprint(find_folder(folder)) if folder not in (None, NO_FOLDER) else ""
        except PathError as error:
            return str(error)

    @classmethod
    def execute(
        cls,
        model: str,
        folder: str = NO_FOLDER,
        images: torch.Tensor | None = None,
        prefix: str = "",
        max_words: int = 40,
        overwrite: bool = False,
        prompt: str = "",
        beams: int = 3,
    ) -> io.NodeOutput:
        if folder == NO_FOLDER and images is None:
            raise DatasetError("Nothing to caption: choose a folder or connect images.")
        place = None if folder == NO_FOLDER else find_folder(folder)
        captioner = _load(_model_folder(model))
        describe = partial(captioner.caption, prompt=prompt, max_words=max_words, beams=beams)

        captions, lines = [], []
        try:  # whatever happens, the model leaves memory
            if place is not None:
                roots = [Path(root) for root in dataset_roots()]
                results = caption_folder(
                    place, describe, prefix, overwrite, roots, progress_callback()
                )
                captions += [r.caption for r in results if not r.error]
                lines.append(report(results))
            if images is not None:
                pictures = [image.cpu().numpy() for image in images]
                captions += caption_all(pictures, describe, prefix, progress_callback())
                lines.append(f"{len(pictures)} pictures of the graph captioned.")
        finally:
            del captioner, describe
            comfy.model_management.soft_empty_cache()
        text = "\n".join(lines)
        return io.NodeOutput(captions, text, ui=ui.PreviewText(text))


def _models() -> list[str]:
    """Names of the model folders, relative to models/captioners."""
    names = []
    for root in folder_paths.get_folder_paths(FOLDER):
        for file in files_below(root, 2):
            name, _, last = file.replace(os.sep, "/").rpartition("/")
            if name and last == "config.json":
                names.append(name)
    return only_text(list(dict.fromkeys(names)), f"models/{FOLDER}")


def _model_folder(name: str) -> Path:
    if name == NO_MODEL:
        raise CaptionerError(
            "There is no captioning model: put the folder of one, such as blip-image-captioning-"
            "base from the Hugging Face hub, into ComfyUI's models/captioners and reload the page."
        )
    path = find_below(folder_paths.get_folder_paths(FOLDER), name, "captioning model")
    if not path.is_dir():
        raise PathError(f"captioning model {name!r} is a file: name the folder that holds it.")
    return path


def _load(folder: Path) -> Captioner:
    device = comfy.model_management.get_torch_device()
    free_models()
    half = comfy.model_management.should_use_fp16(device)
    return Captioner(folder, device, torch.float16 if half else torch.float32)


NODES: list[type[io.ComfyNode]] = [TroupeCaptionImages]
