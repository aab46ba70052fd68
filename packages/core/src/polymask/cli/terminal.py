"""What is printed, and how the fixed options of a verb are described."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from polymask.config import plain
from polymask.errors import Ended, UserError
from polymask.plugins.registry import Registry


class Unread:
    """A stream to print to though nobody may read it: a verb goes on, and what failed first is kept.

    Args:
        stream: that is printed to.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.failed: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self.stream.write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self._try(lambda: self.stream.flush())

    def _try(self, call: Callable[[], Any]) -> None:
        if self.failed is None:
            try:
                call()
            except OSError as error:
                self.failed = error


def say(text: str, colour: int | None = None) -> None:
    """Print to stderr, if anybody reads it; the word before the first colon in colour on a terminal."""
    head, colon, rest = text.partition(":")
    if colour is not None and colon and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        text = f"\x1b[{colour};1m{head}:\x1b[0m{rest}"
    with suppress(OSError):  # of a terminal or pipe that was closed
        print(text, file=sys.stderr, flush=True)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as one line each, said once, without the place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("once", UserWarning)
        warnings.showwarning = lambda message, *rest, **more: say(f"warning: {message}", colour=33)
        yield


def print_json(value: Any) -> None:
    """Print for a program; mappings, tuples and sets of declarations become plain."""
    print(json.dumps(plain(value), indent=2))


def print_written(path: Path, as_json: bool, **said: Any) -> None:
    """Print where something was written, or what is said of it as JSON."""
    if as_json:
        print_json(said)
    else:
        print(path)


def print_result(found: Any, as_json: bool) -> None:
    """Print what was measured, as JSON or as a table."""
    if as_json:
        print_json(found.to_json())
    else:
        from rich.console import Console

        Console().print(found.table())


def show_value(value: Any) -> str:
    """A value as one would give it: ``true``, ``null``, ``[0.9, 0.95]``."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(show_value(item) for item in value)}]"
    return str(value)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned lines, one per row, cut at the width of the terminal but not in a pipe."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([*(cell.ljust(n) for cell, n in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    if not sys.stdout.isatty():
        return lines
    limit = shutil.get_terminal_size().columns
    return [line if len(line) <= limit else line[: limit - 1] + "…" for line in lines]


def warn_broken(registry: Registry) -> Registry:
    """Say on stderr which plugins did not load; returns the registry."""
    for plugin in registry.plugins:
        if plugin.status in ("broken", "conflict"):
            where = f" ({plugin.source})" if plugin.source else ""
            text = f"plugin {plugin.name!r}{where} did not load: {plugin.error}; see polymask plugins"
            say(f"warning: {text}", colour=33)
    return registry


class Arguments(argparse.ArgumentParser):
    """A verb's fixed arguments: types and defaults in the help, one message per error."""

    def __init__(self, verb: str, text: str | None, example: str) -> None:
        super().__init__(
            prog=f"polymask {verb}",
            description=text,
            epilog=f"example:\n  {example}",
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise Ended(status)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}\n{self.prog} --help says more")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """``--name type  text (default: ...)``, line breaks of descriptions and examples kept."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return getattr(action.type, "__name__", "str")

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").rstrip(". ")
        if action.default in (None, False, argparse.SUPPRESS):
            return text
        return f"{text} (default: %(default)s)"
