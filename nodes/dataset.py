"""Nodes of the menu section troupe/training that say what to learn from."""

from pathlib import Path
from typing import get_args

import folder_paths
import torch
from comfy_api.v0_0_2 import io
from pydantic import ValidationError

from ..training import parse_text
from ..training.dataset import Dataset, DatasetSettings, read_dataset
from ..training.errors import DatasetError
from ..training.folders import fingerprint
from ..training.records import (
    CATEGORIES,
    MAX_WEIGHT,
    CategorySettings,
    combine,
    first_problem,
)
from ..training.store import keep_pictures
from .runtime.combos import listed, refuse_hint
from .runtime.datasets import dataset_result, find_folder, folder_names, progress_callback
from .runtime.paths import PathError, dataset_roots
from .runtime.types import Dataset as DatasetSocket

CATEGORY = "troupe/training"
STORE = ("troupe", "datasets")  # below output/
NO_CATEGORY = "none"
NO_FOLDER = "put pictures into input/NAME"
MAX_DATASETS = 16


def _text(name: str, model: type = DatasetSettings, prefix: str = "", **more) -> io.Input:
    """A text widget made from the settings field `name`."""
    field = model.model_fields[name]
    return io.String.Input(
        f"{prefix}_{name}" if prefix else name,
        default=field.default,
        optional=True,
        tooltip=f"For {prefix}/: {field.description}" if prefix else field.description,
        **more,
    )


def _resolution() -> io.Input:
    return io.Int.Input(
        "resolution",
        default=1024,
        min=64,
        max=4096,
        step=8,
        optional=True,
        advanced=True,
        tooltip="The resolution you will train at: for the buckets shown on the contact sheet "
        "and the hint about small pictures. It changes nothing in the dataset.",
    )


def _roles() -> list[io.Input]:
    """What masks mean, what the pictures are for, and how much they count."""
    fields = DatasetSettings.model_fields
    common = {"optional": True, "advanced": True}
    return [
        io.Combo.Input(
            "masks",
            options=list(get_args(fields["masks"].annotation)),
            default=fields["masks"].default,
            tooltip=fields["masks"].description,
            **common,
        ),
        io.Boolean.Input(
            "regularisation",
            default=fields["regularisation"].default,
            tooltip=fields["regularisation"].description,
            **common,
        ),
        io.Float.Input(
            "weight",
            default=fields["weight"].default,
            min=0.0,
            max=MAX_WEIGHT,
            step=0.05,
            tooltip=fields["weight"].description,
            **common,
        ),
        io.Boolean.Input(
            "skip_duplicates",
            default=fields["skip_duplicates"].default,
            tooltip=fields["skip_duplicates"].description,
            **common,
        ),
    ]


ROLES = ("masks", "regularisation", "weight", "skip_duplicates")


def _outputs() -> list[io.Output]:
    return [
        DatasetSocket.Output(display_name="dataset", tooltip="For Train SDXL LoRA."),
        io.Image.Output(
            display_name="contact sheet",
            tooltip="Thumbnails with category, bucket and caption; what a bucket cuts off is dark.",
        ),
        io.String.Output(
            display_name="report",
            tooltip="Counts per category, and every picture that was left out or looks wrong.",
        ),
    ]


class TroupeLoadDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeLoadDataset",
            display_name="Load Dataset",
            category=CATEGORY,
            search_aliases=[
                "training images",
                "lora dataset",
                "captions",
                "load folder",
                "bucket",
                "concept",
            ],
            description="Read a folder of pictures and captions to train a LoRA from. Pictures "
            "may lie flat, in 10_name folders, or in poses/, attire/, characters/ and "
            "backgrounds/. Damaged, tiny, blurred and double pictures are named in the report.",
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=listed(folder_names(), NO_FOLDER),
                    tooltip="A folder in ComfyUI's input/ or datasets/. Captions are same-name "
                    ".txt files beside the pictures.",
                ),
                _text("trigger"),
                _text("default_caption", advanced=True),
                _text("template", advanced=True),
                *(
                    _text(name, CategorySettings, category, advanced=True)
                    for category in CATEGORIES
                    for name in ("trigger", "template")
                ),
                _resolution(),
                io.String.Input(
                    "options",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    placeholder="categories: {attire: {repeats: 3}}",
                    tooltip="Further settings as YAML, for example "
                    "'categories: {attire: {repeats: 3}}'. Filled-in fields above come first.",
                ),
                *_roles(),
            ],
            outputs=_outputs(),
            is_output_node=True,  # so that a dataset can be looked at on its own
        )

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        if folder is None:  # linked: known only when it runs
            return True
        try:
            refuse_hint(folder)
            find_folder(folder)
        except PathError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **_) -> str:
        try:
            return fingerprint(find_folder(folder)) if folder else ""
        except PathError as error:
            return str(error)

    @classmethod
    def execute(
        cls,
        folder: str,
        trigger: str = "",
        default_caption: str = "",
        template: str = "",
        poses_trigger: str = "",
        poses_template: str = "",
        attire_trigger: str = "",
        attire_template: str = "",
        characters_trigger: str = "",
        characters_template: str = "",
        backgrounds_trigger: str = "",
        backgrounds_template: str = "",
        resolution: int = 1024,
        options: str = "",
        masks: str = "auto",
        regularisation: bool = False,
        weight: float = 1.0,
        skip_duplicates: bool = False,
    ) -> io.NodeOutput:
        by_category = {
            "poses": {"trigger": poses_trigger, "template": poses_template},
            "attire": {"trigger": attire_trigger, "template": attire_template},
            "characters": {"trigger": characters_trigger, "template": characters_template},
            "backgrounds": {"trigger": backgrounds_trigger, "template": backgrounds_template},
        }
        typed = {"trigger": trigger, "default_caption": default_caption, "template": template}
        roles = (masks, regularisation, weight, skip_duplicates)
        typed |= dict(zip(ROLES, roles, strict=True))
        settings = _settings(typed, by_category, options)
        dataset = read_dataset(
            find_folder(folder),
            settings,
            resolution=resolution,
            allowed_roots=[Path(root) for root in dataset_roots()],
            progress=progress_callback(),
        )
        return dataset_result(dataset, resolution)


class TroupeDatasetFromImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeDatasetFromImages",
            display_name="Dataset from Images",
            category=CATEGORY,
            search_aliases=["training images", "lora dataset", "images to dataset"],
            description="Make a dataset of pictures from the graph: batches, lists of pictures "
            "of different sizes, frames of a video. They are kept as PNG files in "
            "output/troupe/datasets, the same pictures only once.",
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="Batches or a list; every picture is one item."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where to learn from: one mask for all pictures, or one each.",
                ),
                io.String.Input(
                    "captions",
                    default="",
                    multiline=True,
                    optional=True,
                    placeholder="captions, one line each",
                    tooltip="One line for all pictures, one line per picture, or a list of texts.",
                ),
                _text("trigger"),
                io.Combo.Input(
                    "category",
                    options=[NO_CATEGORY, *CATEGORIES],
                    default=NO_CATEGORY,
                    optional=True,
                    tooltip="What the pictures teach; it chooses the caption template. "
                    + "; ".join(f"{c.name}: {c.help}" for c in CATEGORIES.values())
                    + ".",
                ),
                io.Int.Input(
                    "repeats",
                    default=1,
                    min=1,
                    max=1000,
                    optional=True,
                    tooltip="How often one epoch shows each picture.",
                ),
                _text("template", advanced=True),
                _resolution(),
                *_roles(),
            ],
            outputs=_outputs(),
            is_output_node=True,  # so that a dataset can be looked at on its own
        )

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        mask: list[torch.Tensor] | None = None,
        captions: list[str] | str = "",
        trigger: list[str] | str = "",
        category: list[str] | str = NO_CATEGORY,
        repeats: list[int] | int = 1,
        template: list[str] | str = "",
        resolution: list[int] | int = 1024,
        masks: list[str] | str = "auto",
        regularisation: list[bool] | bool = False,
        weight: list[float] | float = 1.0,
        skip_duplicates: list[bool] | bool = False,
    ) -> io.NodeOutput:
        chosen = _first(category)
        if chosen not in (NO_CATEGORY, *CATEGORIES):
            raise DatasetError(f"Unknown category {chosen!r}: choose one of {list(CATEGORIES)}.")
        typed = {"trigger": _first(trigger), "template": _first(template)}
        roles = (masks, regularisation, weight, skip_duplicates)
        typed |= {name: _first(role) for name, role in zip(ROLES, roles, strict=True)}
        pictures = [image.cpu().numpy() for batch in images for image in _batch(batch, 4)]
        dataset = keep_pictures(
            Path(folder_paths.get_output_directory(), *STORE),
            pictures,
            _captions(captions, len(pictures)),
            _settings(typed, {}, ""),
            _masks(mask, len(pictures)),
            "" if chosen == NO_CATEGORY else chosen,
            _first(repeats),
            _first(resolution),
            progress_callback(),
        )
        return dataset_result(dataset, _first(resolution))


class TroupeCombineDatasets(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeCombineDatasets",
            display_name="Combine Datasets",
            category=CATEGORY,
            search_aliases=["merge datasets", "join datasets", "regularisation", "concept"],
            description="Train on several datasets at once: more than one concept in a LoRA, or a "
            "concept together with regularisation pictures.",
            inputs=[
                io.Autogrow.Input(
                    "datasets",
                    template=io.Autogrow.TemplatePrefix(
                        DatasetSocket.Input("dataset", tooltip="From any dataset node."),
                        prefix="dataset",
                        min=1,
                        max=MAX_DATASETS,
                    ),
                    tooltip="Their pictures follow each other; each keeps its own settings.",
                ),
                _resolution(),
            ],
            outputs=_outputs(),
            is_output_node=True,  # so that a dataset can be looked at on its own
        )

    @classmethod
    def execute(cls, datasets: dict[str, Dataset], resolution: int = 1024) -> io.NodeOutput:
        connected = [d for d in datasets.values() if d is not None]
        return dataset_result(combine(connected), resolution)


def _settings(typed: dict, by_category: dict[str, dict], options: str) -> DatasetSettings:
    """Widget values over YAML options; empty widgets leave the option as it is."""
    data = _checked(_parsed(options)).model_dump(exclude_unset=True)
    empty = DatasetSettings()
    data.update({k: v for k, v in typed.items() if v != getattr(empty, k) and str(v).strip()})
    categories = data.setdefault("categories", {})
    for category, values in by_category.items():
        filled = {key: value for key, value in values.items() if value.strip()}
        if filled:
            categories[category] = {**categories.get(category, {}), **filled}
    return _checked(data)


def _parsed(options: str) -> dict:
    data = parse_text(options, "options")
    if "folder" in data or "items" in data:  # paths come through the checked widget only
        raise DatasetError("options: folder and items cannot be set here; use the folder widget.")
    return data


def _checked(data: dict) -> DatasetSettings:
    try:
        return DatasetSettings.model_validate(data)
    except ValidationError as error:
        raise DatasetError(f"Dataset settings: {first_problem(error)}.") from None


def _first(value):
    return value[0] if isinstance(value, list) else value


def _batch(tensor: torch.Tensor, dims: int) -> torch.Tensor:
    return tensor if tensor.ndim == dims else tensor[None]


def _captions(captions: list[str] | str, count: int) -> list[str]:
    """One text per picture, or one for all."""
    if isinstance(captions, list) and len(captions) > 1:
        return captions
    lines = str(_first(captions)).strip("\r\n").splitlines() or [""]
    if len(lines) not in (1, count):
        lines = [line for line in lines if line.strip()]
    return lines


def _masks(masks: list[torch.Tensor] | None, count: int) -> list:
    if not masks:
        return []
    single = [mask.cpu().numpy() for batch in masks for mask in _batch(batch, 3)]
    return single * count if len(single) == 1 else single


NODES: list[type[io.ComfyNode]] = [
    TroupeLoadDataset,
    TroupeDatasetFromImages,
    TroupeCombineDatasets,
]
