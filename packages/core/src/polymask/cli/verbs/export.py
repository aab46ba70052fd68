"""The encoder of a run, with its classifier if it has one, in a form that other libraries load."""

from __future__ import annotations

from pathlib import Path

from polymask.cli.terminal import Arguments, print_written, warn_broken
from polymask.plugins.registry import default_registry


def run(argv: list[str]) -> int:
    """``polymask export RUN [--format NAME] [--out DIR] [--no-head] [--json]``."""
    parser = Arguments("export", __doc__, "polymask export runs/mae-digits-1 --format timm --out encoder")
    parser.add_argument("folder", metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--format",
        default="safetensors",
        metavar="NAME",
        help="safetensors, onnx, or what encoder or system offer, as timm, transformers, segmenter or tasks",
    )
    parser.add_argument("--out", metavar="DIR", help="folder to write; RUN/export/NAME by default")
    parser.add_argument("--no-head", action="store_true", help="the encoder alone, without its classifier")
    parser.add_argument("--json", action="store_true", help="print JSON: out, files")
    args = parser.parse_args(argv)
    warn_broken(default_registry())
    from polymask.export import export
    from polymask.report.card import require_own, write_card
    from polymask.run import Run

    run = Run.open(args.folder)
    out = Path(args.out or Path(args.folder, "export", args.format))
    require_own(out)
    out = export(run, args.format, out, head=not args.no_head)
    write_card(run, args.format, out, head=not args.no_head)
    print_written(out, args.json, out=str(out), files=sorted(path.name for path in out.iterdir()))
    return 0
