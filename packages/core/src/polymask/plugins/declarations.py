"""Reads what a plugin declares, here or in a child process, which it may hang or end."""

from __future__ import annotations

import contextlib
import difflib
import functools
import marshal
import os
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pluggy

from polymask.parts import KINDS, Part
from polymask.plugins import hookspecs
from polymask.plugins.import_guard import heavy_imports

MOST = 1000
"""How many parts a plugin may declare."""

LONGEST = 1000
"""Characters of an error that are shown; its traceback has all."""

Declared = list[tuple[str, Part]]
"""Parts, each with its kind."""


def load_light(module: str, load: Callable[[], object]) -> object:
    """A plugin, imported by ``load``, which may import nothing heavy; a test sees to it for those of ours.

    Raises:
        BaseException: whatever it raises.
        ImportError: it imports something heavy.
    """
    plugin: object = None
    with heavy_imports() as heavy:
        try:
            plugin = load()
        except Exception:
            if not heavy:
                raise
    if heavy:
        raise ImportError(
            f"importing {module} imports {', '.join(sorted(heavy))}: declare parts as "
            "strings and import the rest in the module their target names"
        )
    return plugin


def declared(module: str, plugin: object) -> Declared:
    """The parts of a plugin, whose module is called ``module`` in messages.

    Raises:
        BaseException: whatever it raises; what is wrong with it.
    """
    _check_api(getattr(plugin, "POLYMASK_API", None))
    manager = pluggy.PluginManager("polymask")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    known = {f"polymask_register_{kind}": kind for kind in KINDS}
    parts: dict[tuple[str, str], Part] = {}
    for caller in manager.get_hookcallers(plugin) or []:
        if caller.name not in known:
            close = difflib.get_close_matches(caller.name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise AttributeError(f"{module} implements an unknown hook {caller.name!r}{hint}")
        kind = known[caller.name]
        for impl in caller.get_hookimpls():
            found = impl.function()
            if not isinstance(found, Iterable):
                raise TypeError(f"{caller.name} returned {found!r}; return a list of polymask.Part")
            for part in found:
                if not isinstance(part, Part):
                    raise TypeError(f"{caller.name} returned {part!r}, which is not a polymask.Part")
                if (kind, part.name) in parts:
                    raise ValueError(f"{module} declares {kind} {part.name!r} twice")
                if len(parts) == MOST:
                    raise ValueError(f"{module} declares more than {MOST} parts")
                parts[kind, part.name] = part
    return [(kind, part) for (kind, _), part in parts.items()]


def declared_apart(module: str, load: Callable[[], object], seconds: float) -> tuple[Declared, str, str]:
    """The same of what ``load`` imports, read in a child process.

    Returns:
        The parts, what is wrong in words, empty where nothing is, and a traceback where there is one.
    """
    fields, text, trace = _in_child(functools.partial(_answer, module, load), seconds)
    return [(kind, Part(**given)) for kind, given in fields or ()], text, trace


def words(error: BaseException) -> tuple[str, str]:
    """An error in a line or a few, cut where it is long, and its traceback."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # the error of a stranger, whose text may fail as well
        text = f"{type(error).__name__}, whose text cannot be had"
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}... ({len(text):,} characters)"
    shown = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    return shown, "".join(traceback.format_exception(error))


def _answer(module: str, load: Callable[[], object]) -> tuple[list[tuple[str, dict[str, Any]]], str, str]:
    """The same as plain values, or what is wrong and its traceback."""
    try:
        plugin = load_light(module, load)
        return [(kind, part.fields()) for kind, part in declared(module, plugin)], "", ""
    except BaseException as error:
        return [], *words(error)


def _in_child(function: Callable[[], tuple[Any, str, str]], seconds: float) -> tuple[Any, str, str]:
    """Call a function in a child process, which reads nothing and whose output goes nowhere.

    What the child has started ends with it, as far as it did not leave the session of the child.

    Args:
        function: returns plain values, what went wrong in words, and a traceback; raises nothing.
        seconds: after which the child is killed.

    Returns:
        What the function returned; if the child ended without an answer, ``None`` and how it ended.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():  # of threads that libraries started
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            packed = marshal.dumps(function())
            with open(writer, "wb") as pipe:  # its size first: children of the child may keep the pipe open
                pipe.write(len(packed).to_bytes(8, "big") + packed)
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
            if len(answer) >= 8 and len(answer) - 8 == int.from_bytes(answer[:8], "big"):
                break
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        found: tuple[Any, str, str] = marshal.loads(answer[8:])
        return found
    except (EOFError, ValueError, TypeError):
        if not ready:
            return None, f"declared no parts within {seconds:g} s", ""
        how = f"exit status {status}" if status >= 0 else f"signal {-status}"
        return None, f"ended its process, {how}", ""


def _check_api(wanted: Any) -> None:
    if wanted is None:
        return
    try:
        numbers = [int(number) for number in str(wanted).split(".")]
    except ValueError:
        raise ValueError(f"POLYMASK_API = {wanted!r} is not a version like '1' or '1.0'") from None
    major, minor = numbers[0], (numbers[1] if len(numbers) > 1 else 0)
    if major != hookspecs.API[0] or minor > hookspecs.API[1]:
        have = ".".join(map(str, hookspecs.API))
        raise ImportError(f"written for plugin API {wanted}, this polymask has {have}")
