"""The help of a verb whose options depend on the parts that were chosen."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from polymask.cli.terminal import HelpFormatter, show_value
from polymask.config import UNSET, Option, PartConfig
from polymask.parts import Part
from polymask.plugins.registry import Registry

JSON = Option("json", bool, UNSET, "print the result as JSON", " ")

Groups = dict[str, dict[str, tuple[Option, object]]]


def help_text(
    prog: str,
    description: str,
    example: str,
    tree: PartConfig,
    first: Mapping[str, Option] | None = None,
) -> str:
    """All options of a verb, with what each is set to.

    Args:
        prog: the command.
        description: first lines.
        example: a command line that works.
        tree: the parts that were chosen.
        first: options that the verb reads by itself.
    """
    groups: Groups = {}
    if first:
        groups["how to run"] = {name: (option, option.default) for name, option in first.items()}
    _collect(groups, tree)
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [options]",
        description=description.replace("%", "%%"),
        epilog=f"example:\n  {example}",
        formatter_class=HelpFormatter,
        add_help=False,
    )
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for name, (option, value) in options.items():
            follows = option.fact and value == option.default
            group.add_argument(
                f"--{name}",
                metavar=option.type_name.strip() or " ",
                default="from the data"
                if follows
                else argparse.SUPPRESS
                if value is UNSET
                else show_value(value),
                help=(option.help or " ").replace("%", "%%"),
            )
    return parser.format_help()


def _collect(groups: Groups, tree: PartConfig, path: str = "", purpose: str = "") -> None:
    """Options of a part in a group of its own, those of the parts in its slots in groups behind it."""
    part, prefix = tree.part, f"{path}." if path else ""
    title = f"{path or part.kind.removesuffix('s')}: {part.full_name}, {part.summary}" if part else "options"
    if part and path:
        text = f"{purpose.rstrip('.')}; --{path} NAME chooses another"
        slot_name = Option("name", str, help=text, shown="NAME")
        groups.setdefault(title, {})[f"{prefix}name"] = (slot_name, part.full_name)
    inner = []
    for name, option in tree.known.items():
        value = tree.options.get(name, option.default)
        if isinstance(value, PartConfig):
            inner.append((value, f"{prefix}{name}", option.help))
        elif option.slot and (name != "data" or path):  # that of the run is among those read first
            empty = Option(name, help=option.help, shown="NAME")
            groups.setdefault(option.group or title, {})[f"{prefix}{name}"] = (empty, None)
        elif not option.slot:
            groups.setdefault(option.group or title, {})[f"{prefix}{name}"] = (option, value)
    for child, slot, text in inner:
        _collect(groups, child, slot, text)
    if not path and "training" in groups:  # the longest goes last
        groups["training"] = groups.pop("training")


def data_for(part: Part | None, registry: Registry) -> str:
    """Names of the data sets that go with a part."""
    registry = registry.within(part.modality) if part else registry
    return ", ".join(other.full_name for other in registry.fitting("datasets")) or "none installed"


def run_options(
    part: Part | None, tree: PartConfig, preset: str | None, registry: Registry
) -> dict[str, Option]:
    """Data, preset and configuration file, as help shows them; presets are known once the system is."""
    data = tree.options.get("data")
    chosen = data.name if isinstance(data, PartConfig) else None
    presets = f": {', '.join(part.presets) or 'there is none'}" if part else ""
    return {
        "data": Option("data", str, chosen, f"which data: {data_for(part, registry)}", "NAME[:SOURCE]"),
        "preset": Option("preset", str, preset, f"named group of options{presets}", "NAME"),
        "config": Option("config", str, None, "YAML file of options, under those given here", "FILE"),
    }


def about(part: Part) -> str:
    """What the help of a verb says of a part before its options."""
    return "\n".join(line for line in (part.summary, part.paper) if line)
