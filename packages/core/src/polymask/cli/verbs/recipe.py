"""Train a system that takes several stages, each a run of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from polymask.cli.help import JSON, help_text, run_options
from polymask.cli.parse import parse
from polymask.cli.terminal import print_json, print_result, warn_broken
from polymask.cli.verbs.pretrain import require_data
from polymask.config import Option, PartConfig, resolve_part
from polymask.config.layers import TRAINING
from polymask.config.resolve import DATA
from polymask.errors import UserError
from polymask.plugins.registry import default_registry

SHARED = {
    name: replace(TRAINING[name], group="all stages")
    for name in ("seed", "accelerator", "devices", "precision", "workers")
}
"""Training options that hold for all stages; the others are the recipe's to set."""


def run(argv: list[str]) -> int:
    """``polymask recipe NAME --data SPEC [--json] [options]``."""
    registry = warn_broken(default_registry())
    command = parse(argv, flags=("help", "json"), short={"-o": "out"})
    wants_help, as_json, out = command.flag("help"), command.flag("json"), command.take("out")
    names = ", ".join(part.full_name for part in registry.parts("recipes")) or "none installed"
    if not command.words and not wants_help:
        raise UserError(f"which recipe? the first argument should be one of: {names}")
    part = registry.find("recipes", command.words[0]) if command.words else None
    name, known = part.full_name if part else "NAME", {"data": DATA, **SHARED}
    tree = PartConfig(None, known)
    if part:
        given = command.source(after="the recipe")
        resolved = resolve_part(part, given, registry=registry, extra=known, check=not wants_help)
        tree = resolved.tree
    if wants_help or not part:
        first = {
            "data": run_options(part, tree, None, registry)["data"],
            "out": Option("out", str, "runs/<recipe>-<data>", "folder of the recipe", "DIR"),
            "json": JSON,
        }
        text = part.summary if part else f"{__doc__}\n\ninstalled: {names}"
        print(help_text(f"polymask recipe {name}", text, f"polymask recipe {name} --data NAME", tree, first))
        return 0
    data = require_data(resolved, registry)
    options = resolved.require().plain(defaults=False)
    shared = {key: options.pop(key) for key in SHARED if key in options}
    folder = Path(
        out or Path("runs", "-".join(full.rpartition("/")[2] for full in (part.full_name, data.name)))
    )
    from polymask.recipes import run_recipe

    chosen = {key: value for key, value in options.items() if key not in ("name", "data")}
    stage = run_recipe(part.full_name, options["data"], folder, options=chosen, shared=shared)
    from polymask.report import write_report

    reports = [write_report(done) for done in stage.done]  # before what is printed, which nobody may read
    probes = stage.probes()
    if as_json:
        found_of = {name: found.to_json() for name, found in probes.items()}
        print_json(
            [
                {"run": str(path.parent), "report": str(path), "probe": found_of.get(path.parent.name)}
                for path in reports
            ]
        )
        return 0
    for label, found in probes.items():
        print(f"stage {label}")
        print_result(found, as_json=False)
    for path in reports:
        print(f"report: {path}")
    return 0
