"""A part that was chosen with its options, and how it is built."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from polymask.config.options import UNSET, Option, options_of
from polymask.errors import UserError
from polymask.parts import Part, slot_kind

RUN = "{run}"
"""The folder of the run, at the beginning of an option: what lies beside it is found where both are moved."""

_SIGNS = ("config.yaml", "config.json")
"""One of them is in the folder of a run, and in that of an export."""

_BUILD_ORDER = ("datasets", "tokenizers", "encoders", "targets", "maskings", "objectives", "systems")


@dataclass(frozen=True)
class PartConfig:
    """A part that was chosen, and what was set of its options.

    Args:
        part: the part; None for what a verb makes of options of its own.
        known: the options there are.
        options: what was set, checked; a slot holds a PartConfig, an object, or None where it is left empty.
        origins: where each value comes from.
    """

    part: Part | None
    known: Mapping[str, Option]
    options: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Full name of the part."""
        return self.part.full_name if self.part else ""

    @property
    def slots(self) -> dict[str, str]:
        """Options that take parts, with the kind each takes, in the order in which they are built."""
        return {
            name: kind for kind in _BUILD_ORDER for name, option in self.known.items() if option.slot == kind
        }

    def plain(self, defaults: bool = True) -> dict[str, Any]:
        """As nested mappings of plain values, with the name of the part.

        Args:
            defaults: write out what constructors have as defaults; never what facts fill.
        """
        values: dict[str, Any] = {"name": self.name} if self.part else {}
        for name, option in self.known.items():
            value = self.options.get(name, UNSET)
            if isinstance(value, PartConfig):
                values[name] = value.plain(defaults)
            elif value is not UNSET:
                values[name] = plain(value)
            elif defaults and option.default is not UNSET and not option.fact:
                values[name] = plain(option.default)
        return values

    def beside(self, folder: str | os.PathLike[str]) -> PartConfig:
        """The same with paths of runs and files as they are seen from the folder of a run."""
        options = {
            name: value.beside(folder) if isinstance(value, PartConfig) else value
            for name, value in self.options.items()
        }
        for name, value in options.items():
            if self.known[name].place:
                options[name] = path_beside(value, folder)
        return replace(self, options=options)

    def build(self, facts: Mapping[str, Any] | None = None) -> Any:
        """Build the part: those in its slots first, then itself.

        Facts flow along data -> tokenizer -> the rest: an option of type :data:`polymask.types.Fact` that
        nobody set takes the fact of its name. What ``text_tokenizer`` provides goes to the slots that begin
        with ``text_`` alone, and so does what the data says in a mapping under ``text``.

        Raises:
            UserError: a part cannot be imported, or its constructor refuses a value.
        """
        assert self.part is not None
        facts = dict(facts or {})
        arguments: dict[str, Any] = {}
        told: dict[str, dict[str, Any]] = {"": facts}
        for slot in self.slots:
            own = told.setdefault(prefix := slot.rpartition("_")[0], _under(facts, prefix))
            given = self.options.get(slot)
            if isinstance(given, PartConfig):
                given = given.build({**facts, **own})
            own.update(getattr(given, "provides", {}))
            if slot in self.options:
                arguments[slot] = given
        arguments |= {name: value for name, value in self.options.items() if name not in arguments}
        for name, option in self.known.items():
            if option.fact and name not in arguments and name in facts:
                arguments[name] = facts[name]
        return construct(self.part, arguments, facts.get(RUN))


def _under(facts: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Facts that are for the slots of a prefix alone."""
    nested = facts.get(prefix)
    return dict(nested) if isinstance(nested, Mapping) else {}


def construct(part: Part, arguments: Mapping[str, Any], folder: str | os.PathLike[str] | None = None) -> Any:
    """Call the constructor of a part; the object remembers what it was built from, see :func:`built_from`.

    Raises:
        UserError: the constructor refuses a value, or a data set lacks its source.
    """
    values = resolve_path(arguments, folder)
    source = options_of(part).get("source") if part.kind == "datasets" else None
    if source is not None and values.get("source", source.default) in (UNSET, ""):
        raise UserError(f"{part.full_name} needs a source, {part.name}:SOURCE; it reads {part.summary}")
    target, *prepare = part.load_all()
    try:
        if prepare:
            own = options_of(replace(part, prepare=""))
            found = target(**{name: value for name, value in values.items() if name in own})
            built = prepare[0](found, **{name: v for name, v in values.items() if name not in own})
        else:
            built = target(**values)
    except UserError:
        raise
    except KeyboardInterrupt as stop:
        stop.add_note(f"stopped while {part.full_name} was built")
        raise
    # whatever a constructor raises, or its call of sys.exit, is about these values
    except BaseException as error:
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            raise UserError(
                f"{part.full_name} does not fit into memory with {_largest(values)}: choose less"
            ) from error
        kind = "" if isinstance(error, TypeError | ValueError) else f"{type(error).__name__}: "
        slots = ", ".join(f"--{name}" for name in values if slot_kind(name))
        if slots and isinstance(error, KeyError | AttributeError):
            raise UserError(
                f"{part.full_name}: these parts do not go together ({kind}{error}): choose among {slots}"
            ) from error
        raise UserError(f"{part.full_name}: {kind}{error}") from error
    if part.kind == "datasets":
        _tell_left_out(part, built)
    with contextlib.suppress(AttributeError):  # a part with __slots__
        built._polymask_built_from = part.full_name, dict(arguments)
    return built


def _largest(values: Mapping[str, Any]) -> str:
    """The three largest numbers among some options, each with its name."""
    flat = {name: value if isinstance(value, list | tuple) else (value,) for name, value in values.items()}
    sizes = {
        name: max((x for x in items if isinstance(x, int | float)), default=0) for name, items in flat.items()
    }
    most = sorted(sizes, key=lambda name: -sizes[name])[:3]
    return ", ".join(f"{name} {sizes[name]:,}" for name in most if sizes[name])


def _tell_left_out(part: Part, data: Any) -> None:
    """Warn of what a data set could not use, whoever opens it."""
    left_out = getattr(data, "skipped", ())
    try:
        left_out = [(str(name), str(reason)) for name, reason in left_out]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{part.full_name} says that it skipped {left_out!r:.80}, and not (path, reason) of each file"
        ) from error
    if not left_out:
        return
    used = 0
    for name in ("train", "test"):
        with contextlib.suppress(UserError):  # it has none
            used += len(data.split(name))
    name, reason = left_out[0]
    warnings.warn(
        f"{part.full_name}: {len(left_out)} left out, {used} used; the first left out is {name}: {reason}",
        stacklevel=3,
    )


def built_from(built: Any) -> dict[str, Any] | None:
    """Name and arguments of a part that was built by name, slots and facts included, else None."""
    name, arguments = getattr(built, "_polymask_built_from", ("", {}))
    if not name:
        return None
    options: dict[str, Any] = {"name": name}
    for name, value in arguments.items():
        if slot_kind(name) and value is not None:
            value = built_from(value)
            if value is None:  # given as an object: nobody knows what it was built from
                return None
        options[name] = value
    return options


def plain(value: Any) -> Any:
    """Numbers, strings, lists and mappings only, as YAML and JSON have them."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def path_beside(value: Any, folder: str | os.PathLike[str]) -> Any:
    """A relative path of a run, an export or a file, to begin with :data:`RUN`; all else as it is."""
    if not isinstance(value, str) or value.startswith(RUN) or os.path.isabs(value):
        return value
    if os.path.isfile(value) or any(os.path.isfile(os.path.join(value, name)) for name in _SIGNS):
        return f"{RUN}/{os.path.relpath(value, folder)}"
    return value


def resolve_path(value: Any, folder: str | os.PathLike[str] | None) -> Any:
    """An option that begins with :data:`RUN` as a path below that folder, also nested; others as they are.

    Raises:
        UserError: no folder is known.
    """
    if isinstance(value, Mapping):
        return {key: resolve_path(item, folder) for key, item in value.items()}
    if not isinstance(value, str) or not value.startswith(RUN):
        return value
    if folder is None:
        raise UserError(f"{value}: there is no run yet whose folder {RUN} could stand for; give a path")
    # the run's folder need not be there yet, so ".." is not for the file system to follow
    return os.path.normpath(f"{os.fspath(folder)}{value.removeprefix(RUN)}")
