"""What a dataset is: its settings, its pictures, and what was found wrong while reading it."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from .captions import check_template, compose_caption
from .errors import DatasetError

FORMAT_VERSION = 1  # of Dataset.to_json
MAX_REPEATS = 1000
NAMES_PER_LINE = 4  # file names listed for one kind of issue in the report

Severity = Literal["error", "warning", "hint"]  # error: the picture is left out


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
        caption: the finished caption: template and trigger are already in it.
        category: "" or a key of CATEGORIES.
        trigger: the word that stands for the concept, "" if there is none.
        repeats: how often an epoch shows the picture, 1..1000.
        width, height: pixels as seen, after EXIF rotation.
        digest: sha256 of the file, hex.
        mask_path, mask_digest: a grayscale picture, white = learn from here; None and "" without.
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
        """sha256 of what training sees: file contents, masks, captions, repeats, in order."""
        seen = [(i.digest, i.mask_digest, i.caption, i.repeats) for i in self.items]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()

    def report(self) -> str:
        """A few lines of text for a person: counts per group, then every issue by kind."""
        shown = sum(i.repeats for i in self.items)
        lines = [
            f"{self.name}: {_count(len(self.items), 'picture')}"
            + (f", {shown} per epoch with repeats" if shown != len(self.items) else "")
            + f" (content {self.digest[:12]})"
        ]
        groups = Counter((i.category, i.trigger, i.repeats) for i in self.items)
        for (category, trigger, repeats), count in groups.items():
            trigger_text = f'trigger "{trigger}"' if trigger else "no trigger"
            times = f", {repeats} times per epoch" if repeats > 1 else ""
            lines.append(f"  {category or 'pictures'}: {count}, {trigger_text}{times}")
        lines.extend(_issue_lines(self.issues))
        return "\n".join(lines)

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


_ADAPTER = TypeAdapter(Dataset)


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
            description="Trigger, template and repeats per category folder.",
        )
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

    def caption_for(self, written: str, category: str = "", concept: str = "") -> str:
        """The finished caption of a picture beside which `written` stands ("" for nothing)."""
        own = self.categories.get(category, CategorySettings())
        built_in = CATEGORIES[category].template if category else DEFAULT_TEMPLATE
        template = own.template or self.template or built_in
        trigger = self.trigger_for(category, concept)
        text = compose_caption(template, written or self.default_caption, trigger, category)
        return text or trigger


def first_problem(error: ValidationError) -> str:
    """The first complaint of pydantic on one line: where, and what."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]


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
