"""Every plugin: version, status, parts, and why a broken one is broken."""

from __future__ import annotations

import dataclasses

from polymask.cli.terminal import Arguments, columns, print_json
from polymask.plugins.registry import default_registry


def run(argv: list[str]) -> int:
    """``polymask plugins [--verbose] [--json]``."""
    parser = Arguments("plugins", __doc__, "polymask plugins --verbose")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of each failure")
    parser.add_argument("--json", action="store_true", help="print JSON, tracebacks included")
    args = parser.parse_args(argv)
    plugins = default_registry().plugins
    if args.json:
        print_json([dataclasses.asdict(plugin) for plugin in plugins])
        return 0
    lines = columns(
        [
            ("plugin", "distribution", "version", "status", "parts"),
            *((p.name, p.distribution or "-", p.version or "-", p.status, str(p.parts)) for p in plugins),
        ]
    )
    print(lines[0])
    for line, plugin in zip(lines[1:], plugins, strict=True):
        print(line)
        if plugin.error:
            print(f"    {plugin.module}: {plugin.error}")
        if plugin.trace and args.verbose:
            print("".join(f"    {row}\n" for row in plugin.trace.splitlines()))
    return 0
