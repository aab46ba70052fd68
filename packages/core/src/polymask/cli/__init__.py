"""The command line: ``polymask VERB ...``, one module per verb in ``verbs``.

A verb's module has a docstring, whose first line ``polymask --help`` prints, and
``run(argv) -> int``. Modules import torch and the like only inside functions, so that help and
lists come at once and work with every plugin broken.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from polymask.cli.terminal import Unread, columns, plain_warnings, say
from polymask.errors import Ended, UserError

VERBS = (
    *("list", "show", "pretrain", "recipe", "probe", "finetune", "evaluate", "compare", "look", "report"),
    *("export", "embed", "generate", "check", "plugins"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: arguments after the program's name; those of the process by default.

    Returns:
        Exit status: 0; 1 where a check found a fault; 2 for what the user can mend; 130 after
        Ctrl-C. ``POLYMASK_DEBUG=1`` shows the traceback of an error of the user's.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "OMP_WAIT_POLICY" not in os.environ:
        # torch's threads wait for each other by spinning, which on busy cores keeps them from working
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who called us
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    streams: Any = sys.stdout, sys.stderr
    output: Any = Unread(sys.stdout)
    sys.stdout, sys.stderr = output, Unread(sys.stderr)
    try:
        status = _status(words)
        output.flush()
        return status if output.failed is None else _unprinted(output, status)
    finally:
        sys.stdout, sys.stderr = streams


def _status(words: list[str]) -> int:
    try:
        with plain_warnings():
            return _dispatch(words)
    except KeyboardInterrupt as stop:
        _notes(stop)
        return 130
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning makes an exit(1) of Ctrl-C
            _notes(stop.__context__)
            return 130
        if isinstance(stop, Ended):
            return int(stop.code or 0)
        # no one has asked for that, and status 0 would say that all was done
        return _ended(stop, f"sys.exit({stop.code!r})")
    # What the system refuses (a place, a file, memory on the disk) is the user's to mend, whatever the verb.
    except (UserError, OSError) as error:
        if os.environ.get("POLYMASK_DEBUG", "") not in ("", "0"):
            raise
        say(f"error: {error if isinstance(error, UserError) else _system(error)}", colour=31)
        _notes(error)
        return 2
    except Exception:  # a defect, which its traceback tells best
        raise
    except BaseException as stop:  # a stranger's
        return _ended(stop, repr(stop))


def _ended(stop: BaseException, what: str) -> int:
    """Say where something was raised that ends programs."""
    where = traceback.extract_tb(stop.__traceback__)[-1]
    say(f"error: {where.filename}, line {where.lineno}: {what} ends the program", 31)
    _notes(stop)
    return 2


def _system(error: OSError) -> str:
    """What the system says of a file, or of something without a name."""
    text = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {text}" if error.filename else f"{text} (POLYMASK_DEBUG=1 shows where)"


def _unprinted(output: Unread, status: int) -> int:
    """The status of a verb whose output could not be written; a reader (head, less) may go."""
    with contextlib.suppress(OSError):  # python must not fail over what is left to print at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
    if isinstance(output.failed, BrokenPipeError):
        return status
    why = output.failed and output.failed.strerror
    say(f"error: what is printed cannot be written to standard output: {why}; send it elsewhere", colour=31)
    return status or 2


def _notes(error: BaseException) -> None:
    """What was noted of an error on its way."""
    for note in getattr(error, "__notes__", ()):
        say(note)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version"):
        from polymask import __version__

        print(f"polymask {__version__}")
        return 0
    if words[0] not in VERBS:
        import difflib

        close = difflib.get_close_matches(words[0], VERBS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"no verb is called {words[0]!r}; {hint}there are {', '.join(VERBS)}")
    status: int = importlib.import_module(f"polymask.cli.verbs.{words[0]}").run(words[1:])
    return status


def _help() -> str:
    summaries = [importlib.import_module(f"polymask.cli.verbs.{verb}").__doc__ or "" for verb in VERBS]
    lines = columns([(f"  {verb}", text.split("\n")[0]) for verb, text in zip(VERBS, summaries, strict=True)])
    return "\n".join(
        [
            "usage: polymask VERB ...",
            "",
            "Masked modelling in every modality: hide part of something, predict it, keep what was learned.",
            "",
            *lines,
            "",
            "example:",
            "  polymask pretrain vision/mae --preset small --data vision/digits",
            "",
            "polymask VERB --help says more; polymask --version prints the version.",
        ]
    )
