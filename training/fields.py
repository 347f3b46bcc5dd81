"""How the fields of a training job are written down; see job.py."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """One section of a job."""

    # built when a job is read: nodes only need the fields, and ComfyUI's start should not wait
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _on_and_off(cls, values: Any) -> Any:
        """YAML reads the words on and off as truths: where a setting knows them, they are meant."""
        if not isinstance(values, Mapping):
            return values
        known = {n for n, field in cls.model_fields.items() if "on" in get_args(field.annotation)}
        return {
            k: "on" if v is True and k in known else "off" if v is False and k in known else v
            for k, v in values.items()
        }


def setting(default: Any, description: str, identity: bool = True, **bounds: Any) -> Any:
    """A field that changes the trained weights."""
    extra = {"identity": identity}
    if isinstance(default, list | dict):
        return Field(
            default_factory=lambda: type(default)(default),
            description=description,
            json_schema_extra=extra,
            **bounds,
        )
    return Field(default, description=description, json_schema_extra=extra, **bounds)


def outside(default: Any, description: str, **bounds: Any) -> Any:
    """A field that may differ between a run and its resumption."""
    return setting(default, description, identity=False, **bounds)
