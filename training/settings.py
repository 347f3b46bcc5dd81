"""Read jobs from files and dicts, and tell others what settings there are.

`parse_job` is the one way in: it merges a preset below the user's values, validates, and turns
pydantic's complaints into one line that names the setting and the remedy.
"""

import codecs
import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from .errors import JobError, quoted
from .job import TrainingJob
from .presets import PRESETS
from .yaml_text import load_yaml

ENGINE = 3  # raise it when the same job gives other weights than before
MAX_TEXT = 1_000_000  # characters of YAML, which is read slowly
MAX_JSON = 400_000_000  # a job with 100,000 pictures and long captions
LONGEST_NAME = 255  # bytes, on every usual file system
SHOWN = 60  # characters of a wrong value
PATHS = (
    "base.checkpoint",
    "base.tokenizer",
    "dataset.folder",
    "adapter.start_from",
    "validation.folder",
    "saving.output",
    "folders.runs",
    "folders.cache",
)
ESCAPED = frozenset("\0\a\b\t\n\v\f\r\x1b\x85\u2028\u2029")  # what YAML makes of backslashes
SINGLE_QUOTES = (
    "in double quotes a backslash begins a character such as \\n: write a path as "
    "'C:\\new\\model.safetensors' in single quotes, or with /"
)


@dataclass(frozen=True)
class Setting:
    """What is known about one field of TrainingJob.

    Attributes:
        path: "section.field".
        kind: "int", "float", "bool", "choice", "text" or "list".
        minimum, maximum: inclusive bounds, None where there is none (an exclusive lower bound
            is given as `above`).
        step: values are multiples of it, None for any.
        identity: whether it changes the trained weights.
    """

    path: str
    kind: str
    default: Any
    description: str
    choices: tuple = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    step: float | None = None
    identity: bool = True


def all_settings(section: str = "") -> list[Setting]:
    """Every setting, in the order of the job, or those of one section."""
    return [s for s in _walk(TrainingJob, "") if s.path.startswith(section)]


def setting(path: str) -> Setting:
    """The setting called "section.field"."""
    return next(s for s in _walk(TrainingJob, "") if s.path == path)


def _walk(model: type[BaseModel], prefix: str):
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _walk(kind, f"{prefix}{name}.")
        else:
            yield _describe(f"{prefix}{name}", info)


def _describe(path: str, info: FieldInfo) -> Setting:
    bounds: dict[str, Any] = {}
    for rule in info.metadata:
        for ours, theirs in (
            ("minimum", "ge"),
            ("maximum", "le"),
            ("above", "gt"),
            ("step", "multiple_of"),
        ):
            if hasattr(rule, theirs):
                bounds[ours] = getattr(rule, theirs)
    kind, choices = _kind(info.annotation)
    extra = info.json_schema_extra or {}
    return Setting(
        path=path,
        kind=kind,
        default=None if info.is_required() else info.get_default(call_default_factory=True),
        description=info.description or "",
        choices=choices,
        identity=extra.get("identity", True),
        **bounds,
    )


def _kind(annotation: Any) -> tuple[str, tuple]:
    options = [a for a in get_args(annotation) if a is not type(None)]
    if get_origin(annotation) is Literal:
        return "choice", get_args(annotation)
    if get_origin(annotation) in (list, tuple, dict):
        return "list", ()
    if len(options) == 1:
        return _kind(options[0])
    return {int: "int", float: "float", bool: "bool"}.get(annotation, "text"), ()


# ------------------------------------------------------------------------------------- reading


def parse_job(values: Mapping[str, Any], preset: str = "") -> TrainingJob:
    """A validated job from nested values over a preset over the defaults.

    Args:
        values: sections and fields as in the YAML file; may name a `preset` itself.
        preset: a key of PRESETS, "" for none.

    Raises:
        JobError: unknown or impossible setting; names it, and the nearest known one.
    """
    if not isinstance(values, Mapping):
        raise JobError("A training job is a mapping of sections such as base, dataset, schedule.")
    values = _with_text_keys(values)
    preset = values.pop("preset", None) or preset
    if preset and (not isinstance(preset, str) or preset not in PRESETS):
        raise JobError(f"Unknown preset {preset!r}: choose one of {', '.join(PRESETS)}.")
    merged = merge(PRESETS[preset].values, values) if preset else values
    try:
        return TrainingJob.model_validate(merged)
    except ValidationError as error:
        raise JobError(_complaint(error)) from None


def _with_text_keys(values: Mapping[Any, Any]) -> dict[str, Any]:
    """YAML reads `1: x` and `on: x` as a number and a truth: names are what was meant."""
    deep = {str(k): v for k, v in values.items()}
    return {k: _with_text_keys(v) if isinstance(v, Mapping) else v for k, v in deep.items()}


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts laid over each other; `above` wins."""
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both else value
    return out


def parse_text(text: str, what: str = "The job") -> dict[str, Any]:
    """A mapping from YAML or JSON text.

    Raises:
        JobError: not YAML, or not a mapping; says in which line.
    """
    import yaml

    try:
        values = _read_json(text)
        if values is None and len(text) > MAX_TEXT:
            raise JobError(f"{what} is longer than {MAX_TEXT} characters: it cannot be settings.")
        if values is None:
            values = load_yaml(text)
    except RecursionError:
        raise JobError(f"{what} is not valid YAML: it is nested too deep.") from None
    except ValueError as error:  # a date or a number that is none
        raise JobError(f"{what} is not valid YAML: {_short(error)}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or _short(error)
        if "escape" in problem or "expected escape sequence" in problem:
            problem += f"; {SINGLE_QUOTES}"
        raise JobError(f"{what} is not valid YAML{line}: {problem}.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise JobError(f"{what} must be lines of 'section: ...', not {type(values).__name__}.")
    return values


def _read_json(text: str) -> dict[str, Any] | None:
    """What is JSON as well as YAML is read as JSON, a hundred times as fast; None for the rest."""
    if len(text) > MAX_JSON or not text.lstrip().startswith("{"):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def read_job(path: Path) -> bytes:
    """The content of a job file.

    Raises:
        JobError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise JobError(
            f"Job file {quoted(path)} cannot be read: {error.strerror or error}."
        ) from None


def _decode(data: bytes, path: Path) -> str:
    """UTF-8, or UTF-16 with its mark, which is what PowerShell's > writes."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise JobError(f"Job file {quoted(path)} is not UTF-8: save it as UTF-8.") from None


def load_job(
    path: Path, overrides: Mapping[str, Any] | None = None, data: bytes | None = None
) -> TrainingJob:
    """A job from a .yaml or .json file; relative paths in it are relative to its folder.

    Args:
        data: what `read_job` has read of it already.

    Raises:
        JobError: unreadable file, or as `parse_job`.
    """
    text = _decode(read_job(path) if data is None else data, path)
    values = parse_text(text, f"Job file {Path(path).name!r}")
    job = parse_job(merge(values, overrides or {}))
    return _with_absolute_paths(job, Path(path).resolve().parent)


def _with_absolute_paths(job: TrainingJob, folder: Path) -> TrainingJob:
    values = job.model_dump()
    for path in PATHS:
        section, name = path.split(".")
        if ESCAPED.intersection(values[section][name]):
            raise JobError(
                f"Setting {path!r} is no path, {values[section][name]!r}: {SINGLE_QUOTES}."
            )
        if values[section][name]:
            try:
                target = (folder / values[section][name]).resolve()
                if any(len(part.encode()) > LONGEST_NAME for part in target.parts):
                    raise ValueError("a name in it is too long")
                values[section][name] = str(target)
            except (OSError, ValueError, RuntimeError) as error:  # NUL, too long, a circle of links
                reason = getattr(error, "strerror", None) or _short(error)
                raise JobError(f"Setting {path!r} is no path ({reason}): check it.") from None
    return TrainingJob.model_validate(values)


def override(assignments: list[str]) -> dict[str, Any]:
    """Nested values from command line words such as `optimizer.learning_rate=2e-4`.

    Raises:
        JobError: a word has no '='.
    """
    out: dict[str, Any] = {}
    for word in assignments:
        path, equals, text = word.partition("=")
        if not equals:
            raise JobError(f"{word!r} is no setting: write section.field=value.")
        value = text if setting_kind(path) == "text" else parse_text(f"v: {text}", path)["v"]
        for name in reversed(path.split(".")):
            value = {name: value}
        out = merge(out, value)
    return out


def setting_kind(path: str) -> str:
    """The kind of a setting, "" for an unknown one."""
    return next((s.kind for s in all_settings() if s.path == path), "")


def _complaint(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    # an unknown name first: it is often why another one is missing
    problem = min(problems, key=lambda p: p["type"] != "extra_forbidden")
    path = ".".join(str(p) for p in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"Unknown setting {path!r}{_nearest(path)}"
    if problem["type"] == "missing":
        return f"Setting {path!r} is missing: give it a value."
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    given = quoted(given) if isinstance(given, str) else given
    shown = f" (got {_short(given)})" if isinstance(given, str | int | float | bool) else ""
    return f"Setting {path!r}: {message[0].lower()}{message[1:]}{shown}."


def _short(value: object) -> str:
    """On one line, and not too long."""
    text = " ".join(str(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _nearest(path: str) -> str:
    known = [s.path for s in all_settings()] + list(TrainingJob.model_fields)
    last = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
    match = difflib.get_close_matches(path, known, 1, 0.8)
    near = difflib.get_close_matches(path.rsplit(".", 1)[-1], list(last), 1, 0.8)
    if near and (not match or near[0] == path.rsplit(".", 1)[-1]):
        match = [last[near[0]]]
    return f": did you mean {match[0]!r}?" if match else ": remove it."


# ------------------------------------------------------------------------------------ identity


def identity_digest(job: TrainingJob, decided: Mapping[str, Any], **content: str) -> str:
    """sha256 over every setting that changes the weights, and over the content they point to.

    Args:
        decided: settings by path whose "auto" or empty value has been decided.
        content: digests that stand in for files: checkpoint, dataset, tokenizer.
    """
    values = {}
    dumped = job.model_dump(mode="json")
    left_out = ("dataset.",) if job.embedding.vectors else ("dataset.", "embedding.")
    for item in all_settings():
        if item.identity and not item.path.startswith(left_out):
            value: Any = dumped
            for name in item.path.split("."):
                value = value[name]
            values[item.path] = value
    values |= {"adapter.alpha": job.alpha, **decided}
    identity = {"engine": ENGINE, "settings": values, "content": content}
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
