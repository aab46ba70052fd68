"""Turns names and options into a system, filling in what one part knows about the next.

Options are nested by slot: ``{"masking": {"name": "core/block", "ratio": 0.5}, "decoder_dim": 64}``;
dotted keys mean the same. Facts flow along data -> tokenizer -> the rest: a constructor argument
that nobody set takes the fact of the same name (``size``, ``channels``, ``in_dim``, ``grid``), so
that an encoder fits its tokenizer without being told. What ``text_tokenizer`` provides is told to the
slots that begin with ``text_`` alone.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from polymask.errors import UserError
from polymask.parts import Part, slot_kind
from polymask.registry import Registry, default_registry

if TYPE_CHECKING:
    from polymask.systems.base import System

Options = dict[str, Any]

RUN = "{run}"
"""At the beginning of an option: the folder of the run, so that what lies beside it is found where both
are moved. A fact of this name says which folder that is; configurations keep the option as it is."""


def build(
    system: str,
    /,
    preset: str | None = None,
    facts: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    **options: Any,
) -> System:
    """Build a system by name.

    Args:
        system: ``"vision/mae"``, or ``"mae"`` where that is unique.
        preset: named group of options of the system, e.g. ``"small"``.
        facts: what is known about the data, e.g. ``{"size": (28, 28), "channels": 1}``.
        registry: where to look names up; the installed plugins by default.
        options: constructor options; slots by name (``masking="core/block"``), by instance, or
            as mappings with a ``name``; dotted keys in a ``**{"masking.ratio": 0.5}``.

    Raises:
        UserError: unknown names or options, or values a constructor refuses.
    """
    registry = registry or default_registry()
    part = registry.find("systems", system)
    registry = registry.within(part.modality)
    below, above = preset_options(part, preset, registry), nest(options)
    merged = layer(full_names(below, registry), full_names(above, registry))
    training = trainer_options()
    merged = {key: value for key, value in merged.items() if key not in training}
    built: System = construct(part, merged, dict(facts or {}), registry)
    return built


def trainer_options() -> frozenset[str]:
    """Names in presets that configure training or data, not the system."""
    from polymask.training.options import names

    return names() | {"data"}


def over(name: str, host: Mapping[str, Any]) -> Options:
    """A host's preset as one of the system that hosts it.

    Args:
        name: of the host.
        host: its preset; its options go under ``host``, its data and training stay as they are.
    """
    kept = trainer_options()
    options = {key if key.partition(".")[0] in kept else f"host.{key}": host[key] for key in host}
    return {"host": name, **options}


def preset_options(part: Part, preset: str | None, registry: Registry) -> Options:
    """A part's defaults, with a preset laid over them.

    Raises:
        UserError: the part has no such preset.
    """
    options = nest(part.defaults)
    if preset is None:
        return options
    if preset not in part.presets:
        raise UserError(
            f"{part.full_name} has no preset {preset!r}; it has {', '.join(sorted(part.presets)) or 'none'}"
        )
    merged: Options = layer(options, nest(part.presets[preset]))
    return merged


def nest(options: Mapping[str, Any]) -> Options:
    """Dotted keys made nested, names of slots made mappings: the one form used from here on."""
    result: Options = {}
    for key, value in options.items():
        head, _, rest = key.partition(".")
        if rest:
            result[head] = layer(result.get(head, {}), nest({rest: value}))
        elif slot_kind(key) and isinstance(value, str):
            result[key] = layer(result.get(key, {}), {"name": value})
        elif isinstance(value, Mapping):
            result[key] = layer(result.get(key, {}), nest(value))
        else:
            result[key] = value
    return result


def full_names(options: Options, registry: Registry) -> Options:
    """Short names of parts written out, so that ``random`` laid over ``core/random`` keeps its options."""
    result: Options = {}
    for key, value in options.items():
        result[key] = full_names(dict(value), registry) if isinstance(value, Mapping) else value
        kind = slot_kind(key)
        if kind and isinstance(value, Mapping) and "name" in value:
            with contextlib.suppress(UserError):  # unknown: told when the part is to be built
                result[key]["name"] = registry.find(kind, value["name"]).full_name
    return result


def layer(below: Any, above: Any) -> Any:
    """``above`` laid over ``below``; another name in a slot drops the options of the first."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    if "name" in above and above["name"] != below.get("name", above["name"]):
        return dict(above)
    return {**below, **{key: layer(below.get(key), value) for key, value in above.items()}}


def slots_of(cls: type) -> dict[str, str]:
    """Constructor parameters that take parts, with the kind each takes, in build order."""
    names = [name for name in _parameters(cls) if slot_kind(name)]
    order = ("tokenizers", "encoders", "targets", "maskings", "objectives", "systems")
    return {n: k for k in order for n in names if slot_kind(n) == k}


def filled(system: Any, kind: str) -> Iterator[tuple[Any, str, str]]:
    """Slots of a system, and of systems that it hosts, that hold a part of a kind.

    Yields:
        Whose slot, which, and its path from the system: ``"masking"``, ``"host.masking"``.
    """
    for slot, takes in slots_of(type(system)).items():
        part = getattr(system, slot, None)
        if part is not None and takes == kind:
            yield system, slot, slot
        elif part is not None and takes == "systems":
            for owner, inner, path in filled(part, kind):
                yield owner, inner, f"{slot}.{path}"


def substitute(system: Any, slot: str, value: Any) -> None:
    """Put anything in a slot of a built system, also what is no module where there was one."""
    # a module refuses a plain function in the place of a module
    system._modules.pop(slot, None)
    system.__dict__[slot] = value


def construct(part: Part, options: Options, facts: dict[str, Any], registry: Registry) -> Any:
    """Build a part: its slots first, then itself, facts filling what nobody set."""
    cls = registry.load(part)
    parameters = _parameters(cls)
    arguments: dict[str, Any] = {}
    local: dict[str, dict[str, Any]] = {"": facts}
    for name, kind in slots_of(cls).items():
        prefix = name.rpartition("_")[0]
        known = local.setdefault(prefix, {})
        given = options.get(name)
        if isinstance(given, Mapping):
            given = dict(given)
            if "name" not in given:
                raise UserError(f"{part.full_name}: which {name}? give --{name} NAME beside its options")
            child = registry.find(kind, given.pop("name"))
            given = layer(nest(child.defaults), given)
            given = construct(child, given, {**facts, **known}, registry)
        elif given is None and parameters[name].default is inspect.Parameter.empty:
            raise UserError(f"{part.full_name} needs a {name}: give --{name} NAME")
        known.update(getattr(given, "provides", {}))
        if name in options:
            arguments[name] = given
    for key, value in options.items():
        if key in arguments:
            continue
        if key not in parameters:
            close = difflib.get_close_matches(key, parameters, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UserError(
                f"{part.full_name} has no option {key!r}; {hint}it has {', '.join(parameters) or 'none'}"
            )
        arguments[key] = value
    for key in parameters:
        if key not in arguments and key in facts:
            arguments[key] = facts[key]
    try:
        built = cls(**{key: located(value, facts.get(RUN)) for key, value in arguments.items()})
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{part.full_name}: {error}") from error
    _remember(built, part, arguments)
    return built


def located(value: Any, folder: str | os.PathLike[str] | None) -> Any:
    """An option that begins with :data:`RUN` as a path below that folder; any other as it is.

    Raises:
        UserError: no folder is known.
    """
    if not isinstance(value, str) or not value.startswith(RUN):
        return value
    if folder is None:
        raise UserError(f"{value}: there is no run yet whose folder {RUN} could stand for; give a path")
    # the run's folder need not be there yet, so ".." is not for the file system to follow
    return os.path.normpath(f"{os.fspath(folder)}{value.removeprefix(RUN)}")


def options_of(built: Any) -> Options | None:
    """Name and constructor options of a part that was built by name, its slots included, else None."""
    return getattr(built, "_polymask_options", None)


def _remember(built: Any, part: Part, arguments: Options) -> None:
    options: Options = {"name": part.full_name}
    for key, value in arguments.items():
        if slot_kind(key) and value is not None:
            value = options_of(value)
            if value is None:  # given as an instance: nobody knows what it was built from
                return
        options[key] = value
    with contextlib.suppress(AttributeError):  # a part with __slots__
        built._polymask_options = options


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(cls).parameters
    return {n: p for n, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
