"""An evaluation beside the probes, such as retrieval or perplexity, on a run."""

from __future__ import annotations

from pathlib import Path

from polymask.cli.help import JSON, help_text
from polymask.cli.parse import parse
from polymask.cli.terminal import print_result, warn_broken
from polymask.config import CONFIG, PartConfig, Resolved, RunConfig, resolve_part
from polymask.config.options import table
from polymask.errors import UserError
from polymask.plugins.registry import default_registry


def run(argv: list[str]) -> int:
    """``polymask evaluate RUN NAME [options]``."""
    registry = warn_broken(default_registry())
    command = parse(argv, flags=("help", "json"))
    wants_help, as_json = command.flag("help"), command.flag("json")
    names = ", ".join(part.full_name for part in registry.parts("evaluations")) or "none installed"
    if not wants_help and len(command.words) != 2:
        raise UserError(f"give a run's folder and what to measure, one of: {names}")
    name = command.words[-1] if command.words else ""  # help may leave the run out
    given = command.source(after="the run and what to measure", words=2)
    resolved = Resolved(PartConfig(None, {}))
    # a short name is that of the run's modality
    if len(command.words) == 2 and Path(command.words[0], CONFIG).is_file():
        system = RunConfig.load(command.words[0], registry).system.part
        registry = registry.within(system.modality) if system else registry
    if name:
        part = registry.find("evaluations", name)
        resolved = resolve_part(part, given, registry=registry, check=not wants_help)
    if wants_help:
        example = f"polymask evaluate runs/mlm-english-1 {name or 'language/perplexity'}"
        text = f"{__doc__}\n\ninstalled: {names}"
        print(help_text(f"polymask evaluate RUN {name or 'NAME'}", text, example, resolved.tree, table(JSON)))
        return 0
    from polymask.evaluation import evaluate_run

    found = evaluate_run(command.words[0], resolved.require())
    print_result(found, as_json)
    return 0
