"""Values of options, checked against their types by pydantic. Imported when there are values to check."""

from __future__ import annotations

import contextlib
import functools
import os
import typing
from typing import Any

import yaml  # type: ignore[import-untyped]
from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from polymask.files import load_yaml


def convert(type: Any, value: Any, text: bool = False) -> Any:
    """A value as its type has it: a list becomes a tuple where that is asked for, text a number.

    Text that is none of what the type takes may be the items of a list without its brackets: ``16,1024``.

    Args:
        type: of the option.
        value: what was given.
        text: whether it was given as text, which is YAML unless the type takes just text.

    Raises:
        ValueError: it cannot be; says which rule it breaks where it is of the right type.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    candidates = [value]
    if text and isinstance(value, str):
        with contextlib.suppress(yaml.YAMLError, RecursionError):
            candidates.insert(0, load_yaml(value))
        with contextlib.suppress(yaml.YAMLError, RecursionError):
            candidates.append(load_yaml(f"[{value.removeprefix('(').removesuffix(')')}]"))
    adapter = _adapter(type)
    if adapter is None:
        return candidates[0]
    rule = ""
    for candidate in candidates:
        if isinstance(candidate, bool) and not _takes_bool(type):
            continue
        try:
            return adapter.validate_python(candidate)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "value_error":
                rule = first["msg"].removeprefix("Value error, ")
    raise ValueError(rule)


@functools.cache
def _adapter(type: Any) -> TypeAdapter[Any] | None:
    if type is Any:
        return None
    try:
        return TypeAdapter(type, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:
        return None


def _takes_bool(type: Any) -> bool:
    return type in (bool, Any, object) or any(_takes_bool(inner) for inner in typing.get_args(type))
