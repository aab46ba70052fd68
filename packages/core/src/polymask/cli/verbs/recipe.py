"""Train a system that takes several stages, each a run of its own."""

from __future__ import annotations

from pathlib import Path

from polymask.cli.layers import add_data, add_part, settle
from polymask.cli.options import Option, read_options
from polymask.cli.scan import scan
from polymask.cli.setup import Setup
from polymask.cli.start import run_options
from polymask.cli.terminal import warn_broken
from polymask.errors import UserError
from polymask.registry import default_registry
from polymask.training.options import TrainOptions

EVERY = ("seed", "accelerator", "devices", "precision", "workers")
"""Training options that hold for all stages; the others are the recipe's to set."""


def run(argv: list[str]) -> int:
    """``polymask recipe NAME --data SPEC [options]``."""
    registry = warn_broken(default_registry())
    command = scan(argv, flags=("help",), short={"-o": "out"})
    wants_help, out = command.flag("help"), command.take("out")
    names = ", ".join(part.full_name for part in registry.parts("recipes")) or "none installed"
    if not command.words and not wants_help:
        raise UserError(f"which recipe? the first argument should be one of: {names}")
    part = registry.find("recipes", command.words[0]) if command.words else None
    name = part.full_name if part else "NAME"
    registry = registry.within(part.modality) if part else registry
    setup = Setup(name, {"command line": settle(command.options(after="the recipe"), registry)})
    if part:
        add_part(setup.groups, part, setup.options, registry)
    add_data(setup.groups, setup.options, registry)
    training = read_options(TrainOptions)
    setup.groups["all stages"] = {key: training[key] for key in EVERY}
    if wants_help or not part:
        first = {
            "data": run_options(registry, setup)["data"],
            "out": Option("out", str, "runs/<recipe>-<data>", "folder of the recipe", "DIR"),
        }
        text = part.summary if part else f"{__doc__}\n\ninstalled: {names}"
        print(setup.help(f"polymask recipe {name}", text, f"polymask recipe {name} --data NAME", first))
        return 0
    config = setup.config()
    data = config.pop("data", {})
    if "name" not in data:
        raise UserError("which data? give --data NAME or --data NAME:SOURCE")
    shared = {key: config.pop(key) for key in EVERY if key in config}
    names_of = [name.rpartition("/")[2] for name in (part.full_name, data["name"])]
    folder = Path(out or Path("runs", "-".join(names_of)))
    from rich.console import Console

    from polymask.recipes import cook

    stage = cook(part.full_name, data, folder, options=config, shared=shared)
    for name, found in stage.probes().items():
        print(f"stage {name}")
        Console().print(found.table())
    from polymask.report import write_report

    for done in stage.done:
        print(f"report: {write_report(done.folder)}")
    return 0
