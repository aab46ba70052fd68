"""Watches what the import of a plugin imports."""

from __future__ import annotations

import builtins
import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

HEAVY = frozenset(
    {"torch", "timm", "torchaudio", "torchvision", "transformers", "lightning", "matplotlib", "sklearn"}
)
"""Modules that a plugin module must not import: they would slow down ``polymask --help``."""


@contextlib.contextmanager
def heavy_imports() -> Iterator[set[str]]:
    """Collect which heavy modules are imported inside, loaded before or not.

    A look at ``sys.modules`` alone would find a plugin at fault on the command line and fine in a
    notebook that has imported torch already, so import statements are watched too.
    """
    seen: set[str] = set()
    before = HEAVY.intersection(sys.modules)
    original, thread = builtins.__import__, threading.get_ident()

    def watched(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        root = name.partition(".")[0]
        if level == 0 and root in HEAVY and threading.get_ident() == thread:
            seen.add(root)
        return original(name, globals, locals, fromlist, level)

    builtins.__import__ = watched
    try:
        yield seen
    finally:
        builtins.__import__ = original
        seen |= HEAVY.intersection(sys.modules) - before
