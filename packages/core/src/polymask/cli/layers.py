"""Settles what a command line means: which system, parts and data, and the options they have.

Options are laid over each other: declared defaults < preset < ``--config`` < command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polymask.cli.options import UNSET, Option, part_options, read_options
from polymask.cli.scan import Command
from polymask.cli.setup import Setup
from polymask.cli.terminal import plain
from polymask.errors import UserError
from polymask.parts import Part, slot_kind
from polymask.registry import Registry
from polymask.training.options import TrainOptions, names
from polymask.wiring import Options, layer, located, nest, preset_options, slots_of

Groups = dict[str, dict[str, Option]]


def system_setup(
    command: Command,
    registry: Registry,
    file: str | Path | None = None,
    training: bool = True,
    resume: bool = False,
) -> tuple[Setup, Options]:
    """What a command line sets up.

    Args:
        command: its first word, or ``--system``, or the file names the system.
        registry: where to look names up.
        file: YAML file of options to lay under those of the command line.
        training: whether there are training options; without, those of presets and files are dropped.
        resume: the file is that of the run that goes on, and not that of another one.

    Returns:
        The setup, and ``system`` and ``preset`` as a configuration has them.

    Raises:
        UserError: an unknown name or preset, or a part that cannot be imported.
    """
    below = read_config(file) if file is not None else {}
    if file is not None and not resume:
        below = _elsewhere(below, Path(file).parent)
    above: Options = dict(command.options(after="the system"))
    head = {key: above.pop(key, below.pop(key, None)) for key in ("system", "preset")}
    head["system"] = command.words[0] if command.words else head["system"]
    if not isinstance(head["system"], str):
        systems = ", ".join(part.full_name for part in registry.parts("systems"))
        raise UserError(f"which system? the first argument should be one of {systems}")
    part, preset = registry.find("systems", head["system"]), head["preset"]
    registry = registry.within(part.modality)
    dropped = frozenset() if training else names()
    # Names first, before anything heavy is imported to know presets and options.
    upper = {
        f"file {file}": settle(_without(dropped, below), registry),
        "command line": settle(above, registry),
    }
    declared = f"preset {preset!r}" if preset else f"defaults of {part.full_name}"
    lowest = settle(_without(dropped, preset_options(part, preset, registry)), registry)
    setup = Setup(part.full_name, {declared: lowest, **upper})
    add_part(setup.groups, part, setup.options, registry)
    add_data(setup.groups, setup.options, registry)
    if training:
        setup.groups["training"] = read_options(TrainOptions)
    _drop_foreign_data(lowest, setup)
    return setup, {"system": part.full_name, "preset": preset}


def add_part(
    groups: Groups, part: Part, options: Options, registry: Registry, slot: str = "", purpose: str = ""
) -> None:
    """Add the options of a part and of the parts in its slots.

    Args:
        groups: what to add to.
        part: the part.
        options: what was set, to know which parts are in its slots.
        registry: where to look names up.
        slot: dotted name of the slot it is in, empty for what is built itself.
        purpose: what the slot is for.
    """
    cls = registry.load(part)
    prefix = f"{slot}." if slot else ""
    title = f"{slot or part.kind.removesuffix('s')}: {part.full_name}, {part.summary}"
    own = groups.setdefault(title, {})
    if slot:
        text = f"{purpose.rstrip('.')}; --{slot} NAME chooses another"
        own[f"{prefix}name"] = Option("name", str, part.full_name, text, "NAME")
    slots, every = slots_of(cls), read_options(cls)
    own |= {f"{prefix}{key}": option for key, option in every.items() if key not in slots}
    options = layer(settle(part.defaults, registry), options)
    filled = {key: (kind, every[key].help) for key, kind in slots.items()}
    add_slots(groups, own, filled, options, registry, prefix)


def add_slots(
    groups: Groups,
    own: dict[str, Option],
    slots: Mapping[str, tuple[str, str]],
    options: Options,
    registry: Registry,
    prefix: str = "",
) -> None:
    """Add the options of the parts in slots, each of a kind and a purpose; empty slots to ``own``."""
    for slot, (kind, purpose) in slots.items():
        given = options.get(slot)
        if isinstance(given, Mapping) and "name" in given:
            child = registry.find(kind, str(given["name"]))
            add_part(groups, child, dict(given), registry, f"{prefix}{slot}", purpose)
        else:
            own[f"{prefix}{slot}"] = Option(slot, str | None, None, purpose, "NAME")


def add_data(groups: Groups, options: Options, registry: Registry) -> None:
    """Add the options of the data set that was chosen, if any."""
    name = options.get("data", {}).get("name")
    if name is None:
        return
    part = registry.find("datasets", name)
    own, *prepare = part_options(part, registry)
    group = groups.setdefault(f"data: {part.full_name}, {part.summary}", {})
    group["data.name"] = Option("name", str, UNSET, "--data NAME:SOURCE sets it and --data.source", "NAME")
    group |= {f"data.{key}": option for key, option in own.items()}
    for every in prepare:
        title = f"data, prepared by {part.prepare.partition(':')[2]}"
        groups[title] = {f"data.{key}": option for key, option in every.items()}


def settle(options: Mapping[str, Any], registry: Registry) -> Options:
    """Options in nested form, parts by their full names.

    ``data`` may be ``name:source``; a slot set to ``none`` is left empty.

    Raises:
        UserError: a name is unknown or ambiguous.
    """
    flat = dict(options)
    if not isinstance(flat.get("data", {}), str | Mapping):
        raise UserError(f"data: {flat['data']!r}: give a name, or a mapping with a name and options")
    if isinstance(flat.get("data"), str):
        name, colon, source = flat.pop("data").partition(":")
        flat = {"data.name": name, **({"data.source": source} if colon else {}), **flat}
    return _full_names(nest(flat), registry)


def _full_names(options: Options, registry: Registry) -> Options:
    result: Options = {}
    for key, value in options.items():
        kind = "datasets" if key == "data" else slot_kind(key)
        if kind and isinstance(value, Mapping):
            value = _full_names(dict(value), registry)
            if value.get("name") in ("none", "null"):
                value = None
            elif "name" in value:
                value["name"] = registry.find(kind, str(value["name"])).full_name
        result[key] = value
    return result


def read_config(path: str | Path) -> Options:
    """A YAML file of options.

    Raises:
        UserError: there is no such file, or it is something else.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        found = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a configuration: it must map options to values, as config.yaml does")
    config: Options = plain(found)
    return config


def _elsewhere(value: Any, folder: Path) -> Any:
    """Options of a run in a folder as another run is to have them."""
    if isinstance(value, Mapping):
        return {key: _elsewhere(item, folder) for key, item in value.items()}
    return located(value, folder)


def resolve(config: Options, built: Options | None, registry: Registry) -> Options:
    """A configuration with the defaults of constructors written out.

    What facts about the data filled stays out, so that it follows the data again.

    Args:
        config: what was set, with ``system`` and ``data``.
        built: what the system was built from (:func:`polymask.wiring.options_of`).
        registry: where to look names up.
    """
    part = registry.find("systems", config["system"])
    data = registry.find("datasets", config["data"]["name"])
    training = {key: config.get(key, option.default) for key, option in read_options(TrainOptions).items()}
    return {
        "system": config["system"],
        "preset": config["preset"],
        "data": {"name": data.full_name, **_written_out(data, config["data"], config["data"], registry)},
        **_written_out(part, config, built or {}, registry),
        **plain(training),
    }


def _written_out(part: Part, given: Options, built: Options, registry: Registry) -> Options:
    cls = registry.load(part)
    slots = slots_of(cls)
    given = layer(settle(part.defaults, registry), given)
    out: Options = {}
    every = {key: option for options in part_options(part, registry) for key, option in options.items()}
    for key, option in every.items():
        value = given.get(key)
        if key in slots and isinstance(value, Mapping):
            child, inner = registry.find(slots[key], value["name"]), built.get(key) or {}
            out[key] = {"name": child.full_name, **_written_out(child, dict(value), inner, registry)}
        elif key in given:
            out[key] = value
        elif key not in built and option.default is not UNSET:
            out[key] = plain(option.default)
    return out


def _without(keys: frozenset[str], options: Options) -> Options:
    return {key: value for key, value in options.items() if key not in keys}


def _drop_foreign_data(declared: Options, setup: Setup) -> None:
    """Leave out what a preset asks of its data and this data set does not have."""
    if "data" in declared and "name" in setup.options["data"]:
        options = declared["data"].items()
        declared["data"] = {key: value for key, value in options if f"data.{key}" in setup.known}
