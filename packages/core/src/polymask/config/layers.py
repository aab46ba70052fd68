"""Sources of options, and how they are laid over each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polymask.config.options import Option, inspect_options
from polymask.config.training import ALTERNATIVES, TrainOptions
from polymask.config.tree import RUN, resolve_path
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
    """Options from one place.

    Args:
        label: the place, for messages: ``"command line"``.
        options: nested or dotted.
        text: whether values are text, to be read as YAML where an option takes no text.
    """

    label: str
    options: Mapping[str, Any]
    text: bool = False

    @classmethod
    def of_file(cls, path: str | Path, *, resume: bool = False) -> Source:
        """The options in a YAML file.

        Args:
            path: of the file.
            resume: the run beside the file goes on; without, paths relative to it are written out.

        Raises:
            UserError: there is no such file, or it is something else.
        """
        options = read_yaml(Path(path))
        return cls(f"file {path}", options if resume else resolve_path(options, Path(path).parent))

    @property
    def is_preset(self) -> bool:
        """Whether the options are a preset's, which may ask more of the data than it has."""
        return self.label.startswith("preset ")


def nest(options: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys made nested, names of parts made mappings: the one form used from here on."""
    result: dict[str, Any] = {}
    for key, value in options.items():
        head, _, rest = str(key).partition(".")
        kind = slot_kind(head)
        if rest:
            value = nest({rest: value})
        elif kind and isinstance(value, str):
            name, colon, source = value.partition(":") if kind == "datasets" else (value, "", "")
            value = {"name": name, **({"source": source} if colon else {})}
        elif isinstance(value, Mapping):
            value = nest(value)
        result = merge(result, {head: value})
    return result


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested options of one source laid over others of the same."""
    result = dict(below)
    for key, value in above.items():
        there = result.get(key)
        result[key] = merge(there, value) if isinstance(there, dict) and isinstance(value, Mapping) else value
    return result


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


def items(options: Mapping[str, Any], known: Mapping[str, Option]) -> Iterator[tuple[str, Any]]:
    """Options by name, those in a group of a verb's (``probe.draws``) by dotted name."""
    for name, value in options.items():
        grouped = (
            isinstance(value, Mapping) and name not in known and any(k.startswith(f"{name}.") for k in known)
        )
        yield from ((f"{name}.{inner}", v) for inner, v in value.items()) if grouped else [(name, value)]


def alternatives(sources: Sequence[Source], known: Mapping[str, Option]) -> list[Source]:
    """Sources in which ``steps`` above has taken back ``epochs`` below, and so on."""
    if "steps" not in known:
        return list(sources)
    result: list[Source] = []
    for source in sources:
        back = {
            pair[1 - i]
            for pair in ALTERNATIVES
            for i in (0, 1)
            if source.options.get(pair[i]) not in (None, "null")
            and source.options.get(pair[1 - i]) in (None, "null")
        }
        result = (
            [replace(below, options=without(back, below.options)) for below in result] if back else result
        )
        result.append(source)
    return result


def place(source: Source) -> str:
    """Where a wrong value comes from, where it is not what was just given."""
    return "" if source.label in (COMMAND, "arguments") else f" (from the {source.label})"


def last_of(sources: Sequence[Source], key: str) -> Any:
    """What the highest source says of an option; None where none does."""
    found = [source.options[key] for source in sources if source.options.get(key) is not None]
    return found[-1] if found else None


def without(keys: Iterable[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options but for some."""
    return {key: value for key, value in options.items() if key not in keys}
