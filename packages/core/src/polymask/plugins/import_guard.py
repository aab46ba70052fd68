"""Watches what the import of a plugin imports."""

from __future__ import annotations

import builtins
import contextlib
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

HEAVY = frozenset(
    {"torch", "timm", "torchaudio", "torchvision", "transformers", "lightning", "matplotlib", "sklearn"}
)
"""Modules that a plugin module must not import: they would slow down ``polymask --help``."""


@contextlib.contextmanager
def heavy_imports() -> Iterator[set[str]]:
    """Refuse to import heavy modules inside, loaded before or not, and collect which were asked for.

    Import statements are watched too: a finder is asked for what is not loaded yet alone, and would find a
    plugin at fault on the command line and fine in a notebook that has imported torch already.
    """
    seen: set[str] = set()
    original, thread = builtins.__import__, threading.get_ident()

    def refuse(name: str, path: Any = None, target: Any = None) -> None:
        root = name.partition(".")[0]
        if root in HEAVY and threading.get_ident() == thread:
            seen.add(root)
            raise ImportError(f"{root} takes too long to import here", name=root)

    def watched(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        if level == 0:
            refuse(name)
        return original(name, globals, locals, fromlist, level)

    finder: Any = types.SimpleNamespace(find_spec=refuse)
    builtins.__import__ = watched
    sys.meta_path.insert(0, finder)
    try:
        yield seen
    finally:
        builtins.__import__ = original
        sys.meta_path.remove(finder)
