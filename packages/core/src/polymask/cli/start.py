"""What verbs that build systems share: the checked configuration, and lines of their help."""

from __future__ import annotations

import dataclasses

from polymask.cli.options import Option
from polymask.cli.setup import Setup
from polymask.errors import UserError
from polymask.parts import Part
from polymask.registry import Registry
from polymask.wiring import Options


def configuration(setup: Setup, head: Options, registry: Registry) -> Options:
    """The checked configuration of a setup.

    Args:
        setup: of a system.
        head: its ``system`` and ``preset``.
        registry: where data sets are listed.

    Raises:
        UserError: no data was chosen, or an option is unknown or of the wrong type.
    """
    if "name" not in setup.options.get("data", {}):
        names = ", ".join(data_for(head, registry)) or "none installed"
        raise UserError(f"which data? give --data NAME or --data NAME:SOURCE, one of: {names}")
    return {**head, **setup.config()}


def data_for(head: Options, registry: Registry) -> list[str]:
    """Names of the data sets that go with a system, if there is one already."""
    if head.get("system"):
        registry = registry.within(registry.find("systems", head["system"]).modality)
    return [part.full_name for part in registry.fitting("datasets")]


def about(part: Part) -> str:
    """What the help of a verb says of a part before its options."""
    lines = [line for line in (part.summary, part.paper) if line]
    lines += ["", "Sizes (size, channels, in_dim, grid, ...) follow the data and the tokenizer unless given."]
    return "\n".join(lines)


def run_options(registry: Registry, setup: Setup, head: Options | None = None) -> dict[str, Option]:
    """Data, preset and configuration file, as help shows them; presets are known once the system is."""
    datasets = ", ".join(data_for(head or {}, registry)) or "none installed"
    data = setup.options.get("data", {}).get("name")
    preset = Option("preset", str, (head or {}).get("preset"), "named group of options", "NAME")
    if head is not None:
        part = registry.find("systems", head["system"])
        names = ", ".join(part.presets) or "there is none"
        preset = dataclasses.replace(preset, help=f"{preset.help}: {names}")
    return {
        "data": Option("data", str, data, f"which data: {datasets}", "NAME[:SOURCE]"),
        "preset": preset,
        "config": Option("config", str, None, "YAML file of options, under those given here", "FILE"),
    }
