"""kNN and linear probe of a run's encoder, beside the same encoder untrained and the raw input."""

from __future__ import annotations

from polymask.cli.help import JSON, help_text
from polymask.cli.parse import parse
from polymask.cli.terminal import print_result, warn_broken
from polymask.config import Option, PartConfig, resolve_part
from polymask.config.options import table
from polymask.errors import UserError
from polymask.plugins.registry import default_registry
from polymask.types import Count

OPTIONS = table(
    Option("neighbours", Count, 20, "votes of the nearest-neighbour classifier"),
    Option("labels_per_class", Count | None, None, "train on so few labels per class; null for all"),
    Option("draws", Count, 5, "how often those few are drawn anew"),
    Option("pool", str, "mean", "mean of the tokens, or prefix, the class token"),
    Option("limit", Count | None, 10_000, "most training samples to use, drawn at random; null for all"),
    Option("layers", bool, False, "a row for every block of the encoder too"),
    Option("seed", int, 0, "of the draws"),
)
"""Those of :func:`polymask.evaluation.probe` that a user may want, written out to be light."""


def run(argv: list[str]) -> int:
    """``polymask probe RUN [options]``."""
    command = parse(argv, flags=("help", "json"))
    wants_help, as_json = command.flag("help"), command.flag("json")
    if wants_help:
        example = "polymask probe runs/mae-digits-1 --labels_per_class 10"
        print(help_text("polymask probe RUN", __doc__ or "", example, PartConfig(None, OPTIONS), table(JSON)))
        return 0
    given = command.source(after="the run")
    if not command.words:
        raise UserError("which run? the first argument should be the folder of one")
    registry = warn_broken(default_registry())
    resolved = resolve_part(None, given, registry=registry, extra=OPTIONS, name="probe")
    from polymask.evaluation import probe

    result = probe(command.words[0], **resolved.require().options)
    print_result(result, as_json)
    return 0
