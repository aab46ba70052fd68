"""What is installed, one line each."""

from __future__ import annotations

from polymask.cli.terminal import Arguments, columns, print_json, warn_broken
from polymask.errors import UserError
from polymask.parts import KINDS
from polymask.plugins.registry import default_registry


def run(argv: list[str]) -> int:
    """``polymask list [KIND] [--json]``."""
    parser = Arguments("list", __doc__, "polymask list maskings")
    parser.add_argument("kind", nargs="?", metavar="KIND", help=f"one of {', '.join(KINDS)}; all by default")
    parser.add_argument("--json", action="store_true", help="print JSON: a list of name, kind, modality, ...")
    args = parser.parse_args(argv)
    registry = warn_broken(default_registry())
    kinds = KINDS if args.kind is None else (_kind(args.kind),)
    if args.json:
        print_json(
            [
                {
                    "name": part.full_name,
                    "kind": part.kind,
                    "modality": part.modality,
                    "summary": part.summary,
                    "paper": part.paper,
                    "tags": part.tags,
                }
                for kind in kinds
                for part in registry.parts(kind)
            ]
        )
        return 0
    rows = [
        (part.full_name, part.modality, part.summary, kind) for kind in kinds for part in registry.parts(kind)
    ]
    lines = columns([row[:3] for row in rows])
    last = None
    for line, row in zip(lines, rows, strict=True):
        if len(kinds) > 1 and row[3] != last:
            print(row[3] if last is None else f"\n{row[3]}")
            last = row[3]
        print(line)
    return 0


def _kind(name: str) -> str:
    kind = name if name in KINDS else f"{name}s"
    if kind not in KINDS:
        raise UserError(f"no kind of part is called {name!r}; there are {', '.join(KINDS)}")
    return kind
