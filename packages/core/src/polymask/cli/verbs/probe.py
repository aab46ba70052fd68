"""kNN and linear probe of a run's encoder, beside the same encoder untrained and the raw input."""

from __future__ import annotations

from polymask.cli.terminal import Arguments, print_json, warn_broken
from polymask.registry import default_registry


def run(argv: list[str]) -> int:
    """``polymask probe RUN [options]``."""
    parser = Arguments("probe", __doc__, "polymask probe runs/mae-digits-1 --labels_per_class 10")
    add = parser.add_argument
    add("folder", metavar="RUN", help="folder of a run on data with labels")
    add("--neighbours", type=int, default=20, help="votes of the nearest-neighbour classifier")
    add("--labels_per_class", type=int, help="train on so few labels per class; all by default")
    add("--draws", type=int, default=5, help="how often those few are drawn anew")
    add("--pool", choices=("mean", "prefix"), default="mean", help="mean of the tokens, or the class token")
    add("--limit", type=int, default=20_000, help="most training samples to use; 0 for all")
    add("--seed", type=int, default=0, help="of the draws")
    add("--json", action="store_true", help="print JSON")
    args = vars(parser.parse_args(argv))
    warn_broken(default_registry())
    from polymask.evaluation import probe

    as_json, folder = args.pop("json"), args.pop("folder")
    result = probe(folder, **{**args, "limit": args["limit"] or None})
    if as_json:
        print_json(result.to_json())
    else:
        from rich.console import Console

        Console().print(result.table())
    return 0
