"""The base of all settings, and the line between what determines a result and what does not.

A *content* field changes what is computed: it is part of the fingerprint of every artefact made from it. A *runtime*
field (workers, block sizes, paths, addresses) changes only how: it never is.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


class _RuntimeMark:
    """Marks a field as runtime: `root: Annotated[Path, RUNTIME]`."""


RUNTIME = _RuntimeMark()


class _LaterMark:
    """Marks a content field that came when there were results already: `regions: Annotated[bool, LATER] = False`.

    With its default it is as if it were not there, so that older results keep their versions.
    """


LATER = _LaterMark()


class Section(BaseModel):
    """A frozen group of settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def _is_content(field: FieldInfo, value: Any) -> bool:
    if any(mark is RUNTIME for mark in field.metadata):
        return False
    return not (any(mark is LATER for mark in field.metadata) and value == field.get_default())


def content_of(settings: Section) -> dict[str, Any]:
    """The JSON-able content fields of `settings`, runtime fields left out at every depth."""
    return {
        name: _content_value(getattr(settings, name))
        for name, field in type(settings).model_fields.items()
        if _is_content(field, getattr(settings, name))
    }


def _content_value(value: Any) -> Any:
    if isinstance(value, Section):
        return content_of(value)
    if isinstance(value, dict):
        return {str(key): _content_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_content_value(item) for item in value]
    return value
