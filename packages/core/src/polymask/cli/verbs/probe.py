"""kNN and linear probe of a run's encoder, beside the same encoder untrained and the raw input."""

from __future__ import annotations

from polymask.cli.options import UNSET, Option, table
from polymask.cli.scan import scan
from polymask.cli.setup import Setup
from polymask.cli.terminal import print_json, warn_broken
from polymask.errors import UserError
from polymask.registry import default_registry

OPTIONS = table(
    Option("neighbours", int, 20, "votes of the nearest-neighbour classifier"),
    Option("labels_per_class", int | None, None, "train on so few labels per class; null for all"),
    Option("draws", int, 5, "how often those few are drawn anew"),
    Option("pool", str, "mean", "mean of the tokens, or prefix, the class token"),
    Option("limit", int | None, 10_000, "most training samples to use, drawn at random; null for all"),
    Option("seed", int, 0, "of the draws"),
)
"""Those of :func:`polymask.evaluation.probe` that a user may want, written out to be light."""
JSON = Option("json", bool, UNSET, "print JSON", " ")


def run(argv: list[str]) -> int:
    """``polymask probe RUN [options]``."""
    command = scan(argv, flags=("help", "json"))
    wants_help, as_json = command.flag("help"), command.flag("json")
    setup = Setup("probe", {"command line": dict(command.options(after="the run"))}, {"options": OPTIONS})
    if wants_help:
        example = "polymask probe runs/mae-digits-1 --labels_per_class 10"
        print(setup.help("polymask probe RUN", __doc__ or "", example, table(JSON)))
        return 0
    if not command.words:
        raise UserError("which run? the first argument should be the folder of one")
    warn_broken(default_registry())
    options = setup.config()
    from polymask.evaluation import probe

    result = probe(command.words[0], **options)
    if as_json:
        print_json(result.to_json())
    else:
        from rich.console import Console

        Console().print(result.table())
    return 0
