"""Draw what a masking, a system or a run hides, over real samples, with its statistics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from polymask.cli.help import JSON, about, help_text, run_options
from polymask.cli.parse import Command, parse
from polymask.cli.terminal import print_written, say, warn_broken
from polymask.cli.verbs.pretrain import require_data, sources_of
from polymask.config import Option, PartConfig, Resolved, RunConfig, Source, resolve_part, resolve_system
from polymask.config.options import table
from polymask.config.resolve import DATA
from polymask.errors import UserError
from polymask.parts import Part
from polymask.plugins.registry import Registry, default_registry
from polymask.types import Count

if TYPE_CHECKING:
    from polymask.data import Dataset

FORMS = """draw what a masking, a system or a run hides, over real samples, with its statistics

  polymask look MASKING --data NAME[:SOURCE] [-o FILE] [--masking.ratio 0.5 ...]
  polymask look SYSTEM --data NAME[:SOURCE] [-o FILE] [options as of pretrain]
  polymask look RUN [-o FILE]

polymask look NAME --help lists the options that NAME has."""

OPTIONS = {
    name: replace(option, group="picture")
    for name, option in table(
        Option("samples", Count, 8, "columns of the picture"),
        Option("draws", Count, 4, "rows of masks, at steps spread over a run"),
        Option("total", Count, 1000, "steps of that run"),
        Option("masks", Count, 2048, "how many masks the statistics are of"),
        Option("seed", int, 0, "of the draws"),
    ).items()
}
"""Those of :func:`polymask.report.look.look`, written out to be light."""

SLOTS = table(
    Option("masking", help="what to look at"),
    Option("tokenizer", default=None, help="what cuts the data into sites; by default what most systems use"),
    Option("score", default=None, help="evidence per site, for maskings that hide by score"),
    DATA,
)


def run(argv: list[str]) -> int:
    """``polymask look MASKING|SYSTEM --data SPEC [-o FILE] [--json] [options]``, or of a run."""
    registry = warn_broken(default_registry())
    command = parse(argv, flags=("help", "json"), short={"-o": "out"})
    wants_help, as_json = command.flag("help"), command.flag("json")
    out = command.take("out") or "masks.png"
    if not command.words and not wants_help:
        raise UserError("look at what? the first argument should be a masking, a system or a run")
    if command.words and Path(command.words[0]).is_dir():
        picture = _draw_run(command, registry, out)
        print_written(picture, as_json, picture=str(picture))
        return 0
    part = _find(command.words[0], registry) if command.words else None
    resolved = Resolved(PartConfig(None, {"data": DATA, **OPTIONS}))
    if part:
        resolved = _resolve(part, command, registry, check=not wants_help)
    if wants_help:
        print(_help(part, resolved, registry))
        return 0
    picture = _draw(resolved, registry, out)
    print_written(picture, as_json, picture=str(picture))
    return 0


def _resolve(part: Part, command: Command, registry: Registry, check: bool) -> Resolved:
    if part.kind == "systems":
        sources = sources_of(command, command.take("config"))
        return resolve_system(*sources, registry=registry, training=False, extra=OPTIONS, check=check)
    arguments = Source("arguments", {"masking": part.full_name})
    given = command.source(after="the masking")
    known, registry = {**SLOTS, **OPTIONS}, registry.within(part.modality)
    return resolve_part(
        None, arguments, given, registry=registry, extra=known, name=part.full_name, check=check
    )


def _draw(resolved: Resolved, registry: Registry, out: str) -> Path:
    data_config = require_data(resolved, registry)
    options = resolved.require().options
    data = data_config.build()
    drawing = {name: value for name, value in options.items() if name in OPTIONS}
    from polymask.data import facts_of
    from polymask.report.look import look, usual_tokenizer

    _tell(data)
    if resolved.tree.part is not None:
        return look(RunConfig.of(resolved).system.build(facts_of(data)), data, out, **drawing)
    tokenizer, score = options.get("tokenizer"), options.get("score")
    cut = (tokenizer or usual_tokenizer(data, registry)).build(data.provides)
    facts = {**data.provides, **cut.provides}
    return look(
        options["masking"].build(facts),
        data,
        out,
        tokenizer=cut,
        score=score and score.build(facts),
        **drawing,
    )


def _draw_run(command: Command, registry: Registry, out: str) -> Path:
    from polymask.report.look import look
    from polymask.run import Run
    from polymask.training.trainer import plan_of

    opened = Run.open(command.words[0])
    given = command.source(after="the run")
    resolved = resolve_part(None, given, registry=registry, extra=OPTIONS, name="look")
    options = {"total": plan_of(opened).total, **resolved.require().options}
    _tell(opened.data)
    return look(opened.system, opened.data, out, **options)


def _tell(data: Dataset) -> None:
    """What reaches the system, before what is hidden of it; what is left out was told when it was opened."""
    from polymask.data import Described

    if isinstance(data, Described):
        for name, text in data.describe().items():
            say(f"{name}: {text}")


def _find(name: str, registry: Registry) -> Part:
    kinds = ("maskings", "systems")
    for kind in kinds:
        if any(name in (part.full_name, part.name) for part in registry.parts(kind)):
            return registry.find(kind, name)
    there = "; ".join(f"{kind}: {', '.join(p.full_name for p in registry.parts(kind))}" for kind in kinds)
    raise UserError(f"no masking or system is called {name!r}, and no folder is; installed {there}")


def _help(part: Part | None, resolved: Resolved, registry: Registry) -> str:
    tree = resolved.tree
    first = run_options(part, tree, resolved.preset, registry)
    if tree.part is None:
        first = {"data": first["data"]}
    first["out"] = Option("out", str, "masks.png", "picture to write: .png, .svg or .pdf; or -o", "FILE")
    first["json"] = JSON
    name = part.full_name if part else "MASKING|SYSTEM|RUN"
    example = f"polymask look {part.full_name if part else 'core/random'} --data vision/digits -o masks.png"
    return help_text(f"polymask look {name}", about(part) if part else FORMS, example, tree, first)
