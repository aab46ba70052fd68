"""Train a system on data, probe it, and write a report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from polymask.cli.layers import read_config, resolve, system_setup
from polymask.cli.options import UNSET, Option, read_options
from polymask.cli.scan import Command, scan
from polymask.cli.setup import Setup
from polymask.cli.start import about, configuration, data_for, run_options
from polymask.cli.terminal import say, warn_broken
from polymask.errors import UserError
from polymask.registry import Registry, default_registry
from polymask.training.options import TrainOptions
from polymask.wiring import Options

if TYPE_CHECKING:
    from polymask.data import Dataset

FORMS = """train a system on data, probe it, and write a report

  polymask pretrain SYSTEM --data NAME[:SOURCE] [options]
  polymask pretrain --config FILE     a configuration, such as config.yaml of a finished run
  polymask pretrain --resume DIR      go on with a run that was stopped

polymask pretrain SYSTEM --help lists the options of the system, its parts and its data;
polymask list systems, which systems there are."""

FOLDER = "POLYMASK_RUN_FOLDER"
"""Tells the processes that Lightning starts, one per device, what the first one chose."""


def run(argv: list[str]) -> int:
    """``polymask pretrain SYSTEM --data SPEC [options]``."""
    registry = warn_broken(default_registry())
    command = scan(argv, flags=("help", "no-report"))
    wants_help, report = command.flag("help"), not command.flag("no-report")
    if wants_help and not command.words and "config" not in command.values:
        print(_help(registry))
        return 0
    resume = _resume(command)
    folder = resume or command.take("out")
    if resume and command.words:
        _same_system(command.words[0], resume, registry)
    file = resume / "config.yaml" if resume else command.take("config")
    setup, head = system_setup(command, registry, file, resume=resume is not None)
    if wants_help:
        print(_help(registry, setup, head))
        return 0
    config = configuration(setup, head, registry)
    folder = Path(folder or default_folder(config))
    return _train(config, folder, registry, bool(resume), report)


def default_folder(config: Options) -> Path:
    """``runs/<system>-<data>-<n>``, the first n that is free.

    Raises:
        UserError: several processes were started, which would not agree on n.
    """
    if FOLDER in os.environ:
        return Path(os.environ[FOLDER])
    if int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))) > 1:
        raise UserError("several processes need to agree on a folder: give --out DIR")
    names = [name.rpartition("/")[2] for name in (config["system"], config["data"]["name"])]
    n = 1
    while (folder := Path("runs", f"{'-'.join(names)}-{n}")).exists():
        n += 1
    return folder


def _train(config: Options, folder: Path, registry: Registry, resume: bool, report: bool) -> int:
    from polymask.run import build_from_config
    from polymask.training import fit
    from polymask.training.sanity_check import sanity_check
    from polymask.wiring import options_of

    system, data, options = build_from_config(config, folder=folder)
    sanity_check(config["system"], system, data, options.seed)
    resolved = resolve(config, options_of(system), registry)
    if _rank() == 0:
        say(
            f"{'resuming' if resume else 'training'} {config['system']} "
            f"on {config['data']['name']} in {folder}"
        )
    os.environ[FOLDER] = str(folder)
    try:
        fit(system, data, options, folder, resume=resume, config=resolved)
    finally:
        os.environ.pop(FOLDER, None)
    if _rank() == 0:
        _conclude(folder, data, report)
    return 0


def _conclude(folder: Path, data: Dataset, report: bool) -> None:
    from polymask.evaluation.probe import labelled, probe

    if labelled(data):
        from rich.console import Console

        say("probing the encoder, the same encoder untrained, and the raw input")
        Console().print(probe(folder).table())
    else:
        print("no probe: this data has no labels")
    if report:
        from polymask.report import write_report

        print(f"report: {write_report(folder)}")
    else:
        print(f"run: {folder}")


def _resume(command: Command) -> Path | None:
    """The run to go on with, from ``--resume DIR`` or ``--resume --out DIR``."""
    if "resume" in command.values:
        folder = command.take("resume")
    elif command.flag("resume"):
        folder = command.take("out")
    else:
        return None
    if folder is None:
        raise UserError("which run? give --resume DIR, or --resume with --out DIR")
    if "config" in command.values:
        raise UserError(f"--config and --resume exclude each other: {folder} has its own configuration")
    if not Path(folder, "config.yaml").is_file():
        raise UserError(f"{folder} holds no run to resume: there is no {Path(folder, 'config.yaml')}")
    return Path(folder)


def _same_system(word: str, folder: Path, registry: Registry) -> None:
    """A clearer word than that the options of one system do not fit another."""
    asked, there = registry.find("systems", word).full_name, read_config(folder / "config.yaml").get("system")
    if asked != there:
        raise UserError(f"{folder} holds a run of {there}, not of {asked}: give another --out")


def _rank() -> int:
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def _help(registry: Registry, setup: Setup | None = None, head: Options | None = None) -> str:
    own = {
        "out": Option("out", str, "runs/<system>-<data>-<n>", "folder of the run", "DIR"),
        "resume": Option("resume", str, None, "run to go on with; without DIR, that of --out", "[DIR]"),
        "no-report": Option("no-report", bool, UNSET, "leave out the HTML report", " "),
    }
    name, text, shown = "SYSTEM", FORMS, "vision/mae"
    if setup is not None and head is not None:
        name, text, shown = head["system"], about(registry.find("systems", head["system"])), head["system"]
    else:
        setup = Setup("", {}, {"training": read_options(TrainOptions)})
    data = "vision/digits" if "vision/digits" in data_for(head or {}, registry) else "NAME"
    example = f"polymask pretrain {shown} --preset small --data {data} --steps 300"
    first = {**run_options(registry, setup, head), **own}
    return setup.help(f"polymask pretrain {name}", text, example, first)
