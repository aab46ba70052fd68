"""Several maskings, targets or systems, with the same data, seeds and budget."""

from __future__ import annotations

from pathlib import Path

from polymask.cli.layers import add_slots, system_setup
from polymask.cli.options import UNSET, Option, read_options, table
from polymask.cli.scan import Command, scan
from polymask.cli.setup import Setup
from polymask.cli.start import about, configuration, run_options
from polymask.cli.terminal import print_json, warn_broken
from polymask.cli.verbs.probe import JSON
from polymask.cli.verbs.probe import OPTIONS as PROBE
from polymask.errors import UserError
from polymask.registry import Registry, default_registry
from polymask.training.options import TrainOptions
from polymask.wiring import Options

SETTINGS = ("seeds", "probe", "evaluation")
OWN = {
    "comparison": table(Option("seeds", int | tuple[int, ...], 3, "how many (0, 1, ...), or which")),
    "probe": {f"probe.{key}": option for key, option in PROBE.items()},
}
FORMS = """several variants, with the same data, seeds and budget: means, intervals, a plot and a table

  polymask compare SYSTEM --data NAME[:SOURCE] --masking NAME,NAME,... [options as of pretrain]
  polymask compare SYSTEM --data NAME[:SOURCE] --target NAME,NAME,...
  polymask compare SYSTEM,SYSTEM,... --data NAME[:SOURCE]

Any one option may have several values, separated by commas; all other options hold for all
variants. The same command again goes on where it was stopped."""


def run(argv: list[str]) -> int:
    """``polymask compare SYSTEM --data SPEC --masking A,B [options]``."""
    registry = warn_broken(default_registry())
    command = scan(argv, flags=("help", "json", "resume"), short={"-o": "out"})
    wants_help, as_json = command.flag("help"), command.flag("json")
    command.flag("resume")
    if wants_help:
        print(_help(command, registry))
        return 0
    out, file = command.take("out"), command.take("config")
    option, variants = _split(command)
    configs = {label: _configure(variant, file, registry) for label, variant in variants.items()}
    first = next(iter(configs.values()))
    own = {key: first[key] for key in SETTINGS if key in first}
    names = [name.rpartition("/")[2] for name in (first["system"], first["data"]["name"], option)]
    folder = Path(out or Path("runs", f"compare-{'-'.join(names)}"))
    from polymask.report.compare import compare

    result = compare(*_shared(configs), folder, **own)
    if as_json:
        print_json(result.to_json())
    else:
        from rich.console import Console

        Console().print(result.table())
        print(f"page: {folder / 'comparison.html'}")
    return 0


def _configure(command: Command, file: str | None, registry: Registry) -> Options:
    setup, head = system_setup(command, registry, file)
    _add_own(setup, registry)
    return configuration(setup, head, registry)


def _add_own(setup: Setup, registry: Registry) -> None:
    """Add the options of a comparison, and those of the evaluation that was chosen."""
    setup.groups |= {title: dict(options) for title, options in OWN.items()}
    purpose = "what to measure beside the probes"
    slots = {"evaluation": ("evaluations", purpose)}
    add_slots(setup.groups, setup.groups["comparison"], slots, setup.options, registry)


def _shared(configs: dict[str, Options]) -> tuple[Options, dict[str, Options]]:
    """What all variants have alike, and what each has besides."""
    configs = {
        label: {key: value for key, value in config.items() if key not in SETTINGS}
        for label, config in configs.items()
    }
    first, *others = configs.values()
    alike = {k: v for k, v in first.items() if all(k in other and other[k] == v for other in others)}
    return alike, {label: {k: v for k, v in c.items() if k not in alike} for label, c in configs.items()}


def _split(command: Command) -> tuple[str, dict[str, Command]]:
    """The option with several values, and one command line per value.

    Raises:
        UserError: none has several values, or more than one.
    """
    values = {**({"system": command.words[0]} if command.words else {}), **command.values}
    several = [
        key
        for key, value in values.items()
        if "," in value and not value.startswith("[") and key.partition(".")[0] not in ("data", *SETTINGS)
    ]
    if len(several) != 1:
        found = f"these have: --{', --'.join(several)}" if several else "none has"
        raise UserError(
            f"compare what? exactly one option should have several values, and {found}; "
            "for example --masking core/random,vision/block"
        )
    key = several[0]
    names = [name.strip() for name in values[key].split(",") if name.strip()]
    variants = {name: Command(command.words[1:], {**values, key: name}, set(command.flags)) for name in names}
    if len(variants) < 2:
        raise UserError(f"compare {values[key]} with what? give --{key} two or more different values")
    return key, variants


def _help(command: Command, registry: Registry) -> str:
    first = {
        "out": Option("out", str, "runs/compare-<system>-<data>-<option>", "folder of the comparison", "DIR"),
        "resume": Option("resume", bool, UNSET, "does nothing: the same command always goes on", " "),
        "json": JSON,
    }
    example = (
        "polymask compare vision/mae --preset small --data vision/digits "
        "--masking core/random,core/block --seeds 3"
    )
    if command.words and "," not in command.words[0]:
        setup, head = system_setup(command, registry, command.take("config"))
        first = {**run_options(registry, setup, head), **first}
        _add_own(setup, registry)
        name, text = setup.name, about(registry.find("systems", setup.name))
    else:
        name, text = "SYSTEM", FORMS
        setup = Setup("", {}, {**OWN, "training": read_options(TrainOptions)})
        first = {**run_options(registry, setup), **first}
    return setup.help(f"polymask compare {name}", text, example, first)
