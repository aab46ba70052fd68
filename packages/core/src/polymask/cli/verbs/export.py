"""The encoder of a run, in a form that other libraries load."""

from __future__ import annotations

from pathlib import Path

from polymask.cli.terminal import Arguments, warn_broken
from polymask.registry import default_registry


def run(argv: list[str]) -> int:
    """``polymask export RUN [--format NAME] [--out DIR]``."""
    parser = Arguments("export", __doc__, "polymask export runs/mae-digits-1 --format timm --out encoder")
    parser.add_argument("folder", metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--format",
        default="safetensors",
        metavar="NAME",
        help="safetensors, onnx, or what the encoder offers: timm, transformers, ...",
    )
    parser.add_argument("--out", metavar="DIR", help="folder to write; RUN/export/NAME by default")
    args = parser.parse_args(argv)
    warn_broken(default_registry())
    from polymask.export import export
    from polymask.report.card import write_card
    from polymask.run import Run

    run = Run.open(args.folder)
    out = export(run, args.format, args.out or Path(args.folder, "export", args.format))
    write_card(run, args.format, out)
    print(out)
    return 0
