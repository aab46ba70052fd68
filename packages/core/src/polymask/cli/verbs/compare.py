"""Several maskings, targets or systems, with the same data, seeds and budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from polymask.cli.help import JSON, about, help_text, run_options
from polymask.cli.parse import Command, parse
from polymask.cli.terminal import print_result, warn_broken
from polymask.cli.verbs.pretrain import require_data, sources_of
from polymask.cli.verbs.probe import OPTIONS as PROBE
from polymask.config import UNSET, Option, PartConfig, Resolved, resolve_system
from polymask.config.layers import TRAINING
from polymask.config.options import table
from polymask.errors import UserError
from polymask.plugins.registry import Registry, default_registry

Options = dict[str, Any]

SEEDS = Option("seeds", int | tuple[int, ...], 3, "how many (0, 1, ...), or which", group="comparison")
EVALUATION = Option("evaluation", default=None, help="what to measure beside the probes", group="comparison")
OWN = {
    **table(SEEDS, EVALUATION),
    **{f"probe.{name}": replace(option, group="probe") for name, option in PROBE.items()},
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
    command = parse(argv, flags=("help", "json", "resume"), short={"-o": "out"})
    wants_help, as_json = command.flag("help"), command.flag("json")
    command.flag("resume")
    if wants_help:
        print(_help(command, registry))
        return 0
    out, file = command.take("out"), command.take("config")
    option, variants = _split(command)
    resolved = {label: _resolve(variant, file, registry) for label, variant in variants.items()}
    configs = {label: _plain(found, registry) for label, found in resolved.items()}
    first = next(iter(configs.values()))
    names = [name.rpartition("/")[2] for name in (first["system"], first["data"]["name"], option)]
    folder = Path(out or Path("runs", f"compare-{'-'.join(names)}"))
    own = next(iter(resolved.values())).tree.options
    from polymask.report.compare import compare

    result = compare(
        *_shared(configs),
        folder,
        seeds=own.get("seeds", SEEDS.default),
        probe={
            name.removeprefix("probe."): value for name, value in own.items() if name.startswith("probe.")
        },
        evaluation=own.get("evaluation"),
    )
    print_result(result, as_json)
    if not as_json:
        print(f"page: {folder / 'comparison.html'}")
    return 0


def _resolve(command: Command, file: str | None, registry: Registry, check: bool = True) -> Resolved:
    return resolve_system(*sources_of(command, file), registry=registry, extra=OWN, check=check)


def _plain(resolved: Resolved, registry: Registry) -> Options:
    """What was set of a run, presets included, without what is the comparison's own."""
    require_data(resolved, registry)
    options = resolved.require().plain(defaults=False)
    kept = {name: value for name, value in options.items() if name not in OWN}
    return {"system": kept.pop("name"), "preset": resolved.preset, **kept}


def _shared(configs: dict[str, Options]) -> tuple[Options, dict[str, Options]]:
    """What all variants have alike, and what each has besides."""
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
        if "," in value and not value.startswith("[") and key.partition(".")[0] not in ("data", "probe", *OWN)
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
    own = {
        "out": Option("out", str, "runs/compare-<system>-<data>-<option>", "folder of the comparison", "DIR"),
        "resume": Option("resume", bool, UNSET, "does nothing: the same command always goes on", " "),
        "json": JSON,
    }
    example = (
        "polymask compare vision/mae --preset small --data vision/digits "
        "--masking core/random,core/block --seeds 3"
    )
    tree, preset = PartConfig(None, {**OWN, **TRAINING}), None
    if command.words and "," not in command.words[0]:
        resolved = _resolve(command, command.take("config"), registry, check=False)
        tree, preset = resolved.tree, resolved.preset
    part = tree.part
    name, text = (part.full_name, about(part)) if part else ("SYSTEM", FORMS)
    first = {**run_options(part, tree, preset, registry), **own}
    return help_text(f"polymask compare {name}", text, example, tree, first)
