"""Sources of options, in one form."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polymask.config.options import inspect_options
from polymask.config.training import TrainOptions
from polymask.config.tree import RUN, resolve_path
from polymask.errors import UserError
from polymask.files import read_yaml
from polymask.parts import slot_kind

COMMAND = "command line"
"""Label of the options given there."""

TRAINING = {name: replace(option, group="training") for name, option in inspect_options(TrainOptions).items()}
"""The options of training, by name."""

RUN_LEVEL = {*TRAINING, "data"}
"""What presets of systems say beside the options of the system."""


@dataclass(frozen=True)
class Source:
    """Options from one place, nested whatever way they were given.

    Args:
        label: the place, for messages: ``"command line"``.
        options: nested or dotted.
        text: whether values are text, to be read as YAML where an option takes no text.
    """

    label: str
    options: Mapping[str, Any]
    text: bool = False

    def __post_init__(self) -> None:
        given: object = self.options
        if not isinstance(given, Mapping):
            raise UserError(
                f"{self.label}: options are given by name, as in {{'system': 'vision/mae', 'steps': 300}}; "
                f"got {given!r}"
            )
        object.__setattr__(self, "options", nest(self.options))

    @classmethod
    def of_file(cls, path: str | Path, *, resume: bool = False) -> Source:
        """The options in a YAML file.

        Args:
            path: of the file.
            resume: the run beside the file goes on; without, paths relative to it are written out.

        Raises:
            UserError: there is no such file, it is something else, or says one option in two spellings.
        """
        options = read_yaml(Path(path))
        _require_once(options, str(path))
        return cls(f"file {path}", options if resume else resolve_path(options, Path(path).parent))

    @property
    def is_preset(self) -> bool:
        """Whether the options are a preset's, which may ask more of the data than it has."""
        return self.label.startswith("preset ")

    @property
    def place(self) -> str:
        """Where a wrong value comes from, where it is not what was just given."""
        return "" if self.label in (COMMAND, "arguments") else f" (from the {self.label})"

    def without(self, keys: Container[str]) -> Source:
        """The same but for some options."""
        return replace(self, options={key: self.options[key] for key in self.options if key not in keys})


def _require_once(options: Mapping[str, Any], path: str, above: str = "") -> None:
    """See that no option stands in a file both dotted and nested."""
    seen: dict[str, str] = {}
    for key, value in options.items():
        for name in flatten(nest({key: value})):
            if name in seen:
                both = f"under {seen[name]!r} and under {str(key)!r}"
                raise UserError(f"{path}: {above}{name} is given twice, {both}: keep one")
            seen[name] = str(key)
        if isinstance(value, Mapping):
            _require_once(value, path, f"{above}{key}.")


def nest(options: Mapping[str, Any], into: dict[str, Any] | None = None) -> dict[str, Any]:
    """Dotted keys made nested, names of parts made mappings: the one form used from here on.

    Args:
        options: nested or dotted.
        into: nested options that these go over.
    """
    nested = {} if into is None else into
    for key, value in options.items():
        head, _, rest = str(key).partition(".")
        kind = slot_kind(head)
        if rest:
            value = {rest: value}
        elif kind and isinstance(value, str):
            name, colon, source = value.partition(":") if kind == "datasets" else (value, "", "")
            value = {"name": name, **({"source": source} if colon else {})}
        if isinstance(value, Mapping):
            below = nested.get(head)
            value = nest(value, below if isinstance(below, dict) else None)
        nested[head] = value
    return nested


def flatten(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def as_host_preset(name: str, host: Mapping[str, Any]) -> dict[str, Any]:
    """A host's preset as one of the system that hosts it.

    Args:
        name: of the host.
        host: its preset; its options go under ``host``, those of data and training stay as they are.
    """
    options = {key if key.partition(".")[0] in RUN_LEVEL else f"host.{key}": host[key] for key in host}
    return {"host": name, **options}


def relative_to_run(name: str) -> str:
    """How an option names something beside the folder of the run, wherever both are moved later."""
    return f"{RUN}/../{name}"
