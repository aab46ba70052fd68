"""Draw what a masking or a system hides, over real samples, with its statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polymask.cli.layers import add_data, add_slots, settle, system_setup
from polymask.cli.options import Option, table
from polymask.cli.scan import Command, scan
from polymask.cli.setup import Setup
from polymask.cli.start import about, configuration, run_options
from polymask.cli.terminal import warn_broken
from polymask.errors import UserError
from polymask.parts import Part
from polymask.registry import Registry, default_registry
from polymask.wiring import Options

if TYPE_CHECKING:
    from polymask.data import Dataset

FORMS = """draw what a masking or a system hides, over real samples, with its statistics

  polymask look MASKING --data NAME[:SOURCE] [-o FILE] [--masking.ratio 0.5 ...]
  polymask look SYSTEM --data NAME[:SOURCE] [-o FILE] [options as of pretrain]

polymask look NAME --help lists the options that NAME has."""

OPTIONS = table(
    Option("samples", int, 8, "columns of the picture"),
    Option("draws", int, 4, "rows of masks, at steps spread over a run"),
    Option("total", int, 1000, "steps of that run"),
    Option("masks", int, 2048, "how many masks the statistics are of"),
    Option("seed", int, 0, "of the draws"),
)
"""Those of :func:`polymask.report.look.look`, written out to be light."""

SLOTS = {
    "masking": ("maskings", "what to look at"),
    "tokenizer": ("tokenizers", "what cuts the data into sites; by default what most systems use"),
    "score": ("targets", "evidence per site, for maskings that hide by score"),
}


def run(argv: list[str]) -> int:
    """``polymask look MASKING|SYSTEM --data SPEC [-o FILE] [options]``."""
    registry = warn_broken(default_registry())
    command = scan(argv, flags=("help",), short={"-o": "out"})
    wants_help, out = command.flag("help"), command.take("out") or "masks.png"
    if not command.words and not wants_help:
        raise UserError("look at what? the first argument should be a masking or a system")
    if not command.words:
        print(_help(Setup("", {}, {"picture": OPTIONS}), None, None, registry))
        return 0
    part = _find(command.words[0], registry)
    registry = registry.within(part.modality)
    setup, head = _setup(part, command, registry)
    setup.groups["picture"] = OPTIONS
    if wants_help:
        print(_help(setup, part, head, registry))
        return 0
    config = configuration(setup, head or {}, registry)
    drawing = {key: config.pop(key) for key in OPTIONS if key in config}
    preset, data = config.pop("preset", None), config.pop("data")
    if config.pop("system", None):
        parts: dict[str, Any] = {"options": config, "preset": preset}
    else:
        masking = config.pop("masking")
        parts = {"options": {k: v for k, v in masking.items() if k != "name"}, **config}
    from polymask.report.look import look

    print(look(part.full_name, _open(data), out, **parts, **drawing))
    return 0


def _setup(part: Part, command: Command, registry: Registry) -> tuple[Setup, Options | None]:
    if part.kind == "systems":
        return system_setup(command, registry, command.take("config"), training=False)
    layers = {
        "arguments": {"masking": {"name": part.full_name}},
        "command line": settle(command.options(after="the masking"), registry),
    }
    setup = Setup(part.full_name, layers)
    empty = setup.groups.setdefault("parts", {})
    add_slots(setup.groups, empty, SLOTS, setup.options, registry)
    add_data(setup.groups, setup.options, registry)
    return setup, None


def _find(name: str, registry: Registry) -> Part:
    kinds = ("maskings", "systems")
    for kind in kinds:
        if any(name in (part.full_name, part.name) for part in registry.parts(kind)):
            return registry.find(kind, name)
    there = "; ".join(f"{kind}: {', '.join(p.full_name for p in registry.parts(kind))}" for kind in kinds)
    raise UserError(f"no masking or system is called {name!r}; installed {there}")


def _open(options: Options) -> str | Dataset:
    """The name alone where that is all, since it is what the picture then says."""
    from polymask.data import open_data

    name, source = options.pop("name"), options.get("source")
    if options.keys() <= {"source"}:
        return f"{name}:{source}" if source else str(name)
    return open_data(name, **options)


def _help(setup: Setup, part: Part | None, head: Options | None, registry: Registry) -> str:
    name = part.full_name if part else "MASKING|SYSTEM"
    first = run_options(registry, setup, head)
    if head is None:
        first = {"data": first["data"]}
    first["out"] = Option("out", str, "masks.png", "picture to write: .png, .svg or .pdf; or -o", "FILE")
    text = FORMS if part is None else about(part)
    example = f"polymask look {part.full_name if part else 'core/random'} --data vision/digits -o masks.png"
    return setup.help(f"polymask look {name}", text, example, first)
