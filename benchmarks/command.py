"""A command line for a typed function: its parameters are the options, its docstring is the help."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import Any

from polymask.config.options import UNSET, Option, inspect_options
from polymask.config.values import convert


def command(function: Callable[..., None]) -> None:
    """Call a function with the options on the command line; parameters without a default are positional."""
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    parser = argparse.ArgumentParser(
        description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for name, option in inspect_options(function).items():
        given: dict[str, Any] = {"type": _reader(option), "help": option.help.replace("%", "%%")}
        if option.default is UNSET:
            parser.add_argument(name, **given)
        else:
            parser.add_argument(f"--{name}", default=option.default, metavar=option.type_name, **given)
    function(**vars(parser.parse_args()))


def _reader(option: Option) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return convert(option.type, text, text=True)

    read.__name__ = option.type_name  # argparse names it where a value is wrong
    return read
