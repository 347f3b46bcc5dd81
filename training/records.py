"""What a dataset is: its settings, its pictures, and what was found wrong while reading it."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from .captions import check_template, clean_lines, compose_caption
from .entries import printable
from .errors import DatasetError

FORMAT_VERSION = 1  # of Dataset.to_json
MAX_WEIGHT = 100.0
MAX_REPEATS = 1000
NAMES_PER_LINE = 4  # file names listed for one kind of issue in the report

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Severity = Literal["error", "warning", "hint"]  # error: the picture is left out
MaskUse = Literal["auto", "white", "black", "ignore"]
INVERTED = ("backgrounds",)  # there a mask shows what is not learnt: the subject before it


@dataclass(frozen=True)
class Category:
    """One of the four things a picture can teach, with its folder name and default template."""

    name: str
    template: str
    help: str


CATEGORIES: dict[str, Category] = {
    c.name: c
    for c in (
        Category("poses", "{trigger} pose, {caption}", "how a body is held"),
        Category("attire", "wearing {trigger}, {caption}", "what is worn"),
        Category("characters", "{trigger}, {caption}", "who is seen"),
        Category("backgrounds", "{trigger} background, {caption}", "where it happens"),
    )
}
DEFAULT_TEMPLATE = "{trigger}, {caption}"
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")


@dataclass(frozen=True)
class DatasetItem:
    """One picture as training sees it.

    Attributes:
        path: absolute path of the picture.
        caption: the finished caption: template and trigger are already in it. Lines are
            alternatives, of which training takes one by chance.
        category: "" or a key of CATEGORIES.
        trigger: the word that stands for the concept, "" if there is none.
        repeats: how often an epoch shows the picture, 1..1000.
        width, height: pixels as seen, after EXIF rotation.
        digest: sha256 of the file, hex.
        mask_path, mask_digest: a grayscale picture, white = learn from here; None and "" without.
            The picture itself where its transparency is the mask.
        mask_inverted: black = learn from here.
        weight: how much the picture counts in the loss.
        prior: a regularisation picture: what the model shall not forget, not what it learns.
        focus: centre (x, y) of what the mask shows, as shares of width and height.
    """

    path: Path
    caption: str
    category: Literal["", "poses", "attire", "characters", "backgrounds"] = ""
    trigger: str = ""
    repeats: Annotated[int, Field(ge=1, le=MAX_REPEATS)] = 1
    width: Annotated[int, Field(ge=1)] = 1
    height: Annotated[int, Field(ge=1)] = 1
    digest: str = ""
    mask_path: Path | None = None
    mask_digest: str = ""
    mask_inverted: bool = False
    weight: Annotated[float, Field(ge=0, le=MAX_WEIGHT, allow_inf_nan=False)] = 1.0
    prior: bool = False
    focus: tuple[Share, Share] | None = None


@dataclass(frozen=True)
class Issue:
    """Something the user should know about a file. `path` is relative to the dataset's folder."""

    path: str
    severity: Severity
    message: str


@dataclass(frozen=True)
class Dataset:
    """Pictures in training order, and what was found wrong while reading them."""

    items: tuple[DatasetItem, ...]
    issues: tuple[Issue, ...] = ()
    name: str = "dataset"

    @cached_property
    def digest(self) -> str:
        """sha256 of what training sees: contents, masks, captions, repeats, weights, in order."""
        seen = []
        for i in self.items:
            alpha = i.mask_path is not None and i.mask_path == i.path
            more = (i.mask_inverted, i.weight, i.prior, alpha)
            # the trigger's tag is spared when tags are shuffled or dropped
            seen.append((i.digest, i.mask_digest, i.caption, i.repeats, i.trigger, *more))
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()

    def report(self) -> str:
        """A few lines of text for a person: counts per group, then every issue by kind."""
        shown = sum(i.repeats for i in self.items)
        lines = [
            f"{self.name}: {_count(len(self.items), 'picture')}"
            + (f", {shown} per epoch with repeats" if shown != len(self.items) else "")
            + f" (content {self.digest[:12]})"
        ]
        groups: dict[tuple, list[DatasetItem]] = {}
        for i in self.items:
            key = (i.prior, i.category, i.trigger, i.repeats, i.weight)
            groups.setdefault(key, []).append(i)
        lines.extend(_group_line(members) for members in groups.values())
        lines.extend(_issue_lines(self.issues))
        return printable("\n".join(lines))

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers; `from_json` makes an equal Dataset of them."""
        return {"version": FORMAT_VERSION, **_ADAPTER.dump_python(self, mode="json")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Dataset":
        """The reverse of `to_json`.

        Raises:
            DatasetError: a field is missing or out of range, or the version is another one.
        """
        fields = dict(data)
        version = fields.pop("version", None)
        if version != FORMAT_VERSION:
            raise DatasetError(
                f"Dataset version {version!r} is not {FORMAT_VERSION}: load the folder again."
            )
        try:
            return _ADAPTER.validate_python(fields)
        except ValidationError as error:
            raise DatasetError(f"Not a dataset: {first_problem(error)}.") from None


def combine(datasets: Sequence[Dataset]) -> Dataset:
    """One dataset with the pictures and issues of several, in order.

    Raises:
        DatasetError: there is none, or one of them is something else.
    """
    if not datasets:
        raise DatasetError("Nothing to combine: connect at least one dataset.")
    for number, dataset in enumerate(datasets, 1):
        if not isinstance(dataset, Dataset):
            raise DatasetError(f"Dataset {number} is none: connect a dataset node.")
    if len(datasets) == 1:
        return datasets[0]
    issues = [
        Issue(f"{d.name}: {i.path}" if i.path else d.name, i.severity, i.message)
        for d in datasets
        for i in d.issues
    ]
    items = tuple(item for dataset in datasets for item in dataset.items)
    return Dataset(items, tuple(issues), " + ".join(d.name for d in datasets)[:200])


_ADAPTER = TypeAdapter(Dataset)


def _weight(description: str) -> Any:
    bounds = {"ge": 0, "le": MAX_WEIGHT, "allow_inf_nan": False}
    return Field(default=1.0, description=description, **bounds)


class CategorySettings(BaseModel):
    """How the pictures of one category are captioned and how often they are shown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trigger: str = Field(
        default="",
        max_length=200,
        description="Word that stands for the concept; a sub-folder's own name comes before it.",
    )
    template: str = Field(
        default="",
        max_length=1000,
        description="Caption template of this category; empty: the dataset's or its own one.",
    )
    repeats: int = Field(
        default=1,
        ge=1,
        le=MAX_REPEATS,
        description="How often one epoch shows each picture of this category.",
    )

    weight: float = _weight("How much the pictures of this category count in the loss.")
    masks: MaskUse = Field(
        default="auto",
        description="What a mask says, in this category; auto: as the dataset's setting.",
    )

    _template_is_known = field_validator("template")(check_template)


class DatasetSettings(BaseModel):
    """Which pictures to learn from and how their captions are made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str = Field(
        default="",
        max_length=4096,
        description="Folder with the pictures; captions lie beside them in same-name .txt files.",
    )
    items: tuple[DatasetItem, ...] = Field(
        default=(),
        description="The pictures one by one, instead of a folder (made by Troupe's nodes).",
    )
    name: str = Field(
        default="",
        max_length=200,
        description="Name of the dataset in reports; empty: the folder's name.",
    )
    trigger: str = Field(
        default="",
        max_length=200,
        description="Rare word that will call the concept up, for example 'zoe person'.",
    )
    template: str = Field(
        default="",
        max_length=1000,
        description=(
            "How a caption is made from {trigger}, {caption} and {category}; a comma-separated "
            "part whose placeholder is empty is left out. Empty: '{trigger}, {caption}', and in "
            "category folders the category's own template, for example 'wearing {trigger}, "
            "{caption}' in attire/."
        ),
    )
    default_caption: str = Field(
        default="",
        max_length=2000,
        description="Used as {caption} for pictures without a caption file.",
    )
    categories: dict[Literal["poses", "attire", "characters", "backgrounds"], CategorySettings] = (
        Field(
            default_factory=dict,
            description="Trigger, template, repeats, weight and masks per category folder.",
        )
    )
    caption_lines: Literal["join", "choose"] = Field(
        default="join",
        description="Caption files of several lines: join them with commas, or choose one of "
        "the lines by chance while training.",
    )
    masks: MaskUse = Field(
        default="auto",
        description="Where to learn from: the white or the black part of masks, or ignore them. "
        "auto: white, but black in backgrounds/, so that one mask of the subject serves both.",
    )
    alpha_masks: bool = Field(
        default=False,
        description="The transparency of a picture is its mask, where it has no mask file.",
    )
    skip_duplicates: bool = Field(
        default=False,
        description="Leave out pictures that are nearly the same as an earlier one, for example "
        "frames of a video.",
    )
    weight: float = _weight("How much these pictures count in the loss.")
    regularisation: bool = Field(
        default=False,
        description="These are regularisation pictures: ordinary ones of the same kind, captioned "
        "without trigger, that keep the model from forgetting.",
    )
    extensions: tuple[str, ...] = Field(
        default=EXTENSIONS,
        min_length=1,
        description="File name endings that are read as pictures.",
    )

    _template_is_known = field_validator("template")(check_template)

    @field_validator("extensions")
    @classmethod
    def _dotted(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple("." + v.lower().lstrip(".") for v in values)

    def trigger_for(self, category: str = "", concept: str = "") -> str:
        """The most specific trigger; but what is typed for the dataset beats a top-level 10_name.

        Args:
            category: "" or a key of CATEGORIES.
            concept: what the picture's folder is called, without its repeats.
        """
        if not category:
            return self.trigger.strip() or concept
        own = self.categories.get(category, CategorySettings())
        return concept or own.trigger.strip() or self.trigger.strip()

    def mask_use(self, category: str = "") -> Literal["white", "black", "ignore"]:
        """What is learnt from a picture that has a mask."""
        own = self.categories.get(category, CategorySettings()).masks
        use = self.masks if own == "auto" else own
        if use == "auto":
            return "black" if category in INVERTED else "white"
        return use

    def caption_for(
        self, written: str, category: str = "", concept: str = "", prior: bool = False
    ) -> str:
        """The finished caption of a picture beside which `written` stands ("" for nothing).

        Lines of `written` are alternatives and stay lines. Regularisation pictures get neither
        template nor trigger; the name of their folder stands in for a missing caption.
        """
        written = written.strip() or ", ".join(clean_lines(self.default_caption))
        if prior:
            return written or concept
        lines = written.splitlines() or [""]
        made = [self._caption_for(line, category, concept) for line in lines]
        return "\n".join(dict.fromkeys(made))

    def _caption_for(self, written: str, category: str, concept: str) -> str:
        own = self.categories.get(category, CategorySettings())
        built_in = CATEGORIES[category].template if category else DEFAULT_TEMPLATE
        template = own.template or self.template or built_in
        trigger = self.trigger_for(category, concept)
        text = compose_caption(template, written, trigger, category)
        return text or trigger


def first_problem(error: ValidationError) -> str:
    """The first complaint of pydantic on one line: where, and what."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]


def _group_line(members: Sequence[DatasetItem]) -> str:
    first = members[0]
    name = first.category or ("regularisation" if first.prior else "pictures")
    line = f"  {name}: {len(members)}"
    if not first.prior:
        line += f', trigger "{first.trigger}"' if first.trigger else ", no trigger"
    if first.repeats > 1:
        line += f", {first.repeats} times per epoch"
    if first.weight != 1:
        line += f", weight {first.weight:g}"
    for inverted, colour in ((False, "white"), (True, "black")):
        count = sum(i.mask_path is not None and i.mask_inverted == inverted for i in members)
        line += f", {_count(count, 'mask')} ({colour} is learnt)" if count else ""
    return line


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _issue_lines(issues: Iterable[Issue]) -> list[str]:
    kinds: dict[tuple[str, str], list[str]] = {}
    for severity in ("error", "warning", "hint"):
        for issue in issues:
            if issue.severity == severity:
                kinds.setdefault((severity, issue.message), []).append(issue.path)
    lines = []
    for (severity, message), paths in kinds.items():
        names = ", ".join(p for p in paths[:NAMES_PER_LINE] if p)
        more = f" and {len(paths) - NAMES_PER_LINE} more" if len(paths) > NAMES_PER_LINE else ""
        lines.append(f"  {severity}: {names}{more}{': ' if names else ''}{message}")
    return lines
