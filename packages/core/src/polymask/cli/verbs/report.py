"""One self-contained HTML page: of a run, or of all runs in a folder."""

from __future__ import annotations

from pathlib import Path

from polymask.cli.terminal import Arguments, print_written, warn_broken
from polymask.plugins.registry import default_registry


def run(argv: list[str]) -> int:
    """``polymask report RUN|FOLDER [--json]``."""
    parser = Arguments("report", __doc__, "polymask report runs/mae-digits-1\n  polymask report runs")
    parser.add_argument("folder", metavar="FOLDER", help="of a run, or with runs in it", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON: report")
    args = parser.parse_args(argv)
    warn_broken(default_registry())
    from polymask.files import require_writable
    from polymask.report import write_index, write_report
    from polymask.run import holds_run

    if args.folder.is_dir():
        require_writable(args.folder)
    page = write_report(args.folder) if holds_run(args.folder) else write_index(args.folder)
    print_written(page, args.json, report=str(page))
    return 0
