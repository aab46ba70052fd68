"""An evaluation beside the probes, such as retrieval or perplexity, on a run."""

from __future__ import annotations

from polymask.cli.layers import add_part
from polymask.cli.options import table
from polymask.cli.scan import scan
from polymask.cli.setup import Setup
from polymask.cli.terminal import print_json, warn_broken
from polymask.cli.verbs.probe import JSON
from polymask.errors import UserError
from polymask.registry import default_registry


def run(argv: list[str]) -> int:
    """``polymask evaluate RUN NAME [options]``."""
    registry = warn_broken(default_registry())
    command = scan(argv, flags=("help", "json"))
    wants_help, as_json = command.flag("help"), command.flag("json")
    names = ", ".join(part.full_name for part in registry.parts("evaluations")) or "none installed"
    if not wants_help and len(command.words) != 2:
        raise UserError(f"give a run's folder and what to measure, one of: {names}")
    name = command.words[-1] if command.words else ""  # help may leave the run out
    values = {**command.values, **dict.fromkeys(command.flags, "true")}
    setup = Setup(name, {"command line": dict(values)})
    if name:
        add_part(setup.groups, registry.find("evaluations", name), {}, registry)
    if wants_help:
        example = f"polymask evaluate runs/mlm-english-1 {name or 'language/perplexity'}"
        text = f"{__doc__}\n\ninstalled: {names}"
        print(setup.help(f"polymask evaluate RUN {name or 'NAME'}", text, example, table(JSON)))
        return 0
    options = setup.config()
    from polymask.evaluation import evaluate_run

    found = evaluate_run(command.words[0], {**options, "name": name})
    if as_json:
        print_json(found.to_json())
    else:
        from rich.console import Console

        Console().print(found.table())
    return 0
