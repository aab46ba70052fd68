"""The conformance suite on any part, ours or anybody's."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from polymask.cli.terminal import Arguments, columns, print_json, warn_broken
from polymask.parts import KINDS
from polymask.plugins.registry import default_registry

if TYPE_CHECKING:
    from polymask.testing import CheckResult


def run(argv: list[str]) -> int:
    """``polymask check NAME... [--json]``; exit status 1 where a check failed."""
    parser = Arguments("check", __doc__, "polymask check core/random vision/mae")
    add = parser.add_argument
    add("names", metavar="NAME", nargs="+", help="parts, or plugins for all their parts")
    add("--kind", choices=KINDS, help="kind of the parts, where a name is used by several")
    add("--tokenizer", metavar="NAME", help="what makes the input; by default one of the part's modality")
    add("--verbose", action="store_true", help="name the checks that passed too")
    add("--json", action="store_true", help="print JSON: part, check, outcome, message, summary")
    args = parser.parse_args(argv)
    registry = warn_broken(default_registry())
    plugins = {plugin.name for plugin in registry.plugins if plugin.status == "ok"}
    parts = []
    for name in args.names:
        if name in plugins:
            kinds = KINDS if args.kind is None else (args.kind,)
            parts += [part for kind in kinds for part in registry.parts(kind) if part.plugin == name]
        else:
            parts.append(registry.locate(name, args.kind))
    from polymask.testing import check_part

    results: list[CheckResult] = []
    for part in parts:
        found = check_part(part, registry=registry, tokenizer=args.tokenizer)
        results += found
        if not args.json:
            _print(part.full_name, found, args.verbose)
    if args.json:
        print_json([dataclasses.asdict(result) for result in results])
    return 0 if all(result.ok for result in results) else 1


def _print(name: str, results: list[CheckResult], verbose: bool) -> None:
    counts = Counter(result.outcome for result in results)
    print(f"{name}: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}")
    shown = [r for r in results if verbose or r.outcome != "passed"]
    for line in columns([(f"  {r.outcome}", r.check, r.message or r.summary) for r in shown]):
        print(line)
