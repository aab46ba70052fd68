"""Train a system on data, probe it, and write a report."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from polymask.cli.help import JSON, about, data_for, help_text, run_options
from polymask.cli.parse import Command, parse
from polymask.cli.terminal import print_json, print_result, say, warn_broken
from polymask.config import CONFIG, UNSET, Option, PartConfig, Resolved, RunConfig, Source, resolve_system
from polymask.config.layers import TRAINING
from polymask.errors import UserError
from polymask.files import writing
from polymask.plugins.registry import Registry, default_registry

if TYPE_CHECKING:
    from polymask.run import Run

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
    command = parse(argv, flags=("help", "json", "no-report"))
    wants_help, as_json = command.flag("help"), command.flag("json")
    report = not command.flag("no-report")
    if wants_help and not command.words and "config" not in command.values:
        print(_help(registry))
        return 0
    resume = _resume(command)
    folder = resume or command.take("out")
    if resume and command.words:
        _same_system(command.words[0], resume, registry)
    file = resume / CONFIG if resume else command.take("config")
    resolved = resolve_system(
        *sources_of(command, file, resume is not None), registry=registry, check=not wants_help
    )
    if wants_help:
        print(_help(registry, resolved))
        return 0
    if resume and resolved.tree.options.get("data") is None:
        raise UserError(
            f"{resume} was trained on a data set given in Python, which no name opens again: go on with it "
            "there, fit(Run.create(RunConfig.load(folder), folder, data=...), resume=True)"
        )
    require_data(resolved, registry)
    config = RunConfig.of(resolved)
    from polymask.run import Run

    where = Path(folder) if folder else default_folder(config)
    try:
        return _train(Run.create(config, where), resume is not None, report, as_json)
    finally:
        if not folder:
            with contextlib.suppress(OSError):
                where.rmdir()  # which only an empty one allows: nothing was trained


def sources_of(command: Command, file: str | Path | None, resume: bool = False) -> list[Source]:
    """A configuration file and the command line over it; the first word is the system."""
    system = {"system": command.words[0]} if command.words else {}
    below = [Source.of_file(file, resume=resume)] if file is not None else []
    return [*below, command.source(after="the system", beside=system)]


def require_data(resolved: Resolved, registry: Registry) -> PartConfig:
    """The data set that was chosen.

    Raises:
        UserError: none was, with those there are.
    """
    data = resolved.tree.options.get("data")
    if not isinstance(data, PartConfig):
        names = data_for(resolved.tree.part, registry)
        raise UserError(f"which data? give --data NAME or --data NAME:SOURCE, one of: {names}")
    return data


def default_folder(config: RunConfig) -> Path:
    """``runs/<system>-<data>-<n>``, made with the first n that is free, so that it is nobody else's.

    Raises:
        UserError: several processes were started, which would not agree on n.
    """
    if FOLDER in os.environ:
        return Path(os.environ[FOLDER])
    if int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))) > 1:
        raise UserError("several processes need to agree on a folder: give --out DIR")
    assert config.data is not None
    names = [name.rpartition("/")[2] for name in (config.system.name, config.data.name)]
    for n in itertools.count(1):
        folder = Path("runs", f"{'-'.join(names)}-{n}")
        with writing(folder), contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    return folder


def _train(run: Run, resume: bool, report: bool, as_json: bool) -> int:
    from polymask.checkpoints import CHECKPOINT
    from polymask.distributed import rank
    from polymask.training import fit
    from polymask.training.sanity_check import sanity_check

    sanity_check(run.name, run.system, run.data, run.training.seed)
    if rank() == 0:
        assert run.config is not None and run.config.data is not None
        if run.initial is not None:
            say(str(run.initial))
        verb = "training"
        if resume:
            there = (run.folder / CHECKPOINT).is_file()
            verb = "resuming" if there else "there is no checkpoint yet: training from the first step,"
        say(f"{verb} {run.name} on {run.config.data.name} in {run.folder}")
    os.environ[FOLDER] = str(run.folder)
    try:
        fit(run, resume=resume)
    finally:
        os.environ.pop(FOLDER, None)
    if rank() == 0:
        _conclude(run, report, as_json)
    return 0


def _conclude(run: Run, report: bool, as_json: bool) -> None:
    from polymask.evaluation.probe import labels_of, probe

    found, why = None, ""
    try:
        labels_of(run.data)
    except UserError as error:
        why = str(error)
    else:
        say("probing the encoder, the same encoder untrained, and the raw input")
        found = probe(run)
    page = None
    if report:
        from polymask.report import write_report

        say("drawing the report")
        page = write_report(run)
    # all is written before anything is printed, which nobody may read
    if as_json:
        measured = {"probe": found.to_json()} if found else {"no_probe": why}
        print_json({"run": str(run.folder), "report": page and str(page), **measured})
        return
    if found is None:
        print(f"no probe: {why}")
    else:
        print_result(found, as_json=False)
    print(f"report: {page}" if page else f"run: {run.folder}")


def _resume(command: Command) -> Path | None:
    """The run to go on with, from ``--resume DIR`` or ``--resume --out DIR``."""
    if "resume" in command.values:
        folder = command.take("resume")
        if "out" in command.values:
            raise UserError(f"--resume {folder} goes on in that folder: leave --out out")
    elif command.flag("resume"):
        folder = command.take("out")
    else:
        return None
    if "init" in command.values:
        raise UserError(
            f"--init and --resume exclude each other: {folder or 'a run'} goes on with its own weights"
        )
    if folder is None:
        raise UserError("which run? give --resume DIR, or --resume with --out DIR")
    if "config" in command.values:
        raise UserError(f"--config and --resume exclude each other: {folder} has its own configuration")
    from polymask.run import restore_config

    restore_config(Path(folder))
    if not Path(folder, CONFIG).is_file():
        raise UserError(f"{folder} holds no run to resume: there is no {Path(folder, CONFIG)}")
    return Path(folder)


def _same_system(word: str, folder: Path, registry: Registry) -> None:
    """A clearer word than that the options of one system do not fit another."""
    asked, there = (
        registry.find("systems", word).full_name,
        Source.of_file(folder / CONFIG, resume=True).options.get("system"),
    )
    if asked != there:
        raise UserError(f"{folder} holds a run of {there}, not of {asked}: give another --out")


def _help(registry: Registry, resolved: Resolved | None = None) -> str:
    own = {
        "out": Option("out", str, "runs/<system>-<data>-<n>", "folder of the run", "DIR"),
        "resume": Option("resume", str, None, "run to go on with; without DIR, that of --out", "[DIR]"),
        "no-report": Option("no-report", bool, UNSET, "leave out the HTML report", " "),
        "json": JSON,
    }
    tree = resolved.tree if resolved else PartConfig(None, TRAINING)
    part, preset = tree.part, resolved.preset if resolved else None
    data = "vision/digits" if "vision/digits" in data_for(part, registry) else "NAME"
    name = part.full_name if part else "SYSTEM"
    shown = part.full_name if part else "vision/mae"
    example = f"polymask pretrain {shown} --preset small --data {data} --steps 300"
    first = {**run_options(part, tree, preset, registry), **own}
    return help_text(f"polymask pretrain {name}", about(part) if part else FORMS, example, tree, first)
