"""One self-contained HTML page of a run: curves, masks, reconstructions, probe."""

from __future__ import annotations

from polymask.cli.terminal import Arguments, warn_broken
from polymask.registry import default_registry


def run(argv: list[str]) -> int:
    """``polymask report RUN``."""
    parser = Arguments("report", __doc__, "polymask report runs/mae-digits-1")
    parser.add_argument("folder", metavar="RUN", help="folder of a run")
    args = parser.parse_args(argv)
    warn_broken(default_registry())
    from polymask.report import write_report

    print(write_report(args.folder))
    return 0
