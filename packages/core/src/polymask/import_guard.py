"""Watches what the import of a plugin imports, and keeps what it does to its process away from ours."""

from __future__ import annotations

import builtins
import contextlib
import marshal
import os
import select
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
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


def in_child(function: Callable[[], tuple[Any, str, str]], seconds: float) -> tuple[Any, str, str]:
    """Call a function in a child process, which reads nothing and prints nothing on stdout.

    Args:
        function: returns plain values, what went wrong in words, and a traceback; raises nothing.
        seconds: after which the child is killed.

    Returns:
        What the function returned; if the child ended without an answer, ``None`` and how it ended.
    """
    reader, writer = os.pipe()
    with (
        warnings.catch_warnings()
    ):  # of threads that libraries started; Python's own are the caller's to count
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            with open(writer, "wb") as pipe:
                pipe.write(marshal.dumps(function()))
        finally:
            os._exit(0)
    os.close(writer)
    answer, end = b"", time.monotonic() + seconds
    waiting = select.poll()
    waiting.register(reader, select.POLLIN)
    try:
        while ready := waiting.poll(max(end - time.monotonic(), 0) * 1000):
            if not (piece := os.read(reader, 1 << 16)):
                break
            answer += piece
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        found: tuple[Any, str, str] = marshal.loads(answer)
        return found
    except (EOFError, ValueError, TypeError):
        if not ready:
            return None, f"declared no parts within {seconds:g} s", ""
        return (
            None,
            f"ended its process, {f'exit status {status}' if status >= 0 else f'signal {-status}'}",
            "",
        )
