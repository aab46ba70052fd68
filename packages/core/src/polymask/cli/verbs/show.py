"""What a part is: paper, mechanism, slots, options with defaults, presets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from polymask.cli.terminal import Arguments, print_json, show_value, warn_broken
from polymask.config import UNSET, options_of, plain
from polymask.config.layers import nest
from polymask.config.options import description_of
from polymask.parts import KINDS, Part
from polymask.plugins.registry import Registry, default_registry

if TYPE_CHECKING:
    from rich.table import Table


def run(argv: list[str]) -> int:
    """``polymask show NAME [--kind KIND] [--json]``."""
    parser = Arguments("show", __doc__, "polymask show vision/mae")
    parser.add_argument("name", metavar="NAME", help="any part, as polymask list names it")
    parser.add_argument("--kind", choices=KINDS, help="kind of part, where a name is used by several")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    registry = warn_broken(default_registry())
    facts = facts_of(registry.locate(args.name, args.kind), registry)
    if args.json:
        print_json(facts)
    else:
        _print(facts)
    return 0


def facts_of(part: Part, registry: Registry) -> dict[str, Any]:
    """All that is known of a part, as plain values, without importing it.

    Raises:
        UserError: it cannot be found.
    """
    options, defaults = options_of(part), nest(part.defaults)
    plugin = next(p for p in registry.plugins if p.name == part.plugin and p.status == "ok")
    given = {name: defaults.get(name, option.default) for name, option in options.items()}
    return {
        "name": part.full_name,
        "kind": part.kind,
        "modality": part.modality,
        "summary": part.summary,
        "suits": part.suits,
        "paper": part.paper,
        "mechanism": _mechanism(part),
        "slots": [
            {
                "name": name,
                "kind": option.slot,
                "default": None if given[name] is UNSET else plain(given[name]),
                "help": option.help,
            }
            for name, option in options.items()
            if option.slot
        ],
        "options": [
            {
                "name": name,
                "type": option.type_name,
                "required": given[name] is UNSET and not option.fact,
                "fact": option.fact,
                "default": None if given[name] is UNSET else plain(given[name]),
                "help": option.help,
            }
            for name, option in options.items()
            if not option.slot
        ],
        "presets": plain(part.presets),
        "tags": sorted(part.tags),
        "needs": part.needs,
        "target": part.target,
        "distribution": plugin.source,
    }


def _mechanism(part: Part) -> str:
    """What the class says of itself; the example of one that several systems share names this one."""
    text = description_of(part)
    if part.kind != "systems":
        return text
    example = rf"polymask pretrain (?!{re.escape(part.full_name)} )\S+ .*"
    return re.sub(example, f"polymask pretrain {part.full_name} --preset small --data NAME", text)


def _print(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=False)
    kind = facts["kind"].removesuffix("s")
    console.print(Text.assemble((facts["name"], "bold"), f"  {kind}, {facts['modality']}"))
    suits = facts["suits"] and f"suits: {facts['suits']}"
    for line in (facts["summary"], suits, facts["paper"], facts["mechanism"]):
        if line:
            console.print(Text(line if line != facts["mechanism"] else f"\n{line}"))
    tables: dict[str, list[tuple[str, ...]]] = {
        "slots": [(f"--{s['name']}", _slot(s["default"]), s["help"]) for s in facts["slots"]],
        "options": [
            (
                f"--{o['name']}",
                o["type"],
                _default(o),
                o["help"],
            )
            for o in facts["options"]
        ],
        "presets": [
            (name, ", ".join(f"{key} {show_value(value)}" for key, value in options.items()))
            for name, options in facts["presets"].items()
        ],
    }
    for title, rows in tables.items():
        if rows:
            console.print(f"\n[bold]{title}[/bold]")
            console.print(_table(rows))
    console.print()
    for key in ("tags", "needs", "target", "distribution"):
        if facts[key]:
            value = ", ".join(facts[key]) if key == "tags" else facts[key]
            console.print(Text.assemble((f"{key}: ", "dim"), value))


def _default(option: dict[str, Any]) -> str:
    if option["fact"] and option["default"] is None:
        return "from the data"
    return "required" if option["required"] else show_value(option["default"])


def _table(rows: list[tuple[str, ...]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for index in range(len(rows[0])):
        table.add_column(no_wrap=index == 0)
    for first, *rest in rows:
        table.add_row(Text(f"  {first}"), *(Text(cell) for cell in rest))
    return table


def _slot(default: Any) -> str:
    if not isinstance(default, dict):
        return "none"
    options = " ".join(f"{key}={show_value(value)}" for key, value in default.items() if key != "name")
    return f"{default.get('name', '')} {options}".strip()
