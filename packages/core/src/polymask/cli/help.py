"""How jsonargparse's help looks here. Imported with jsonargparse, when it is needed."""

from __future__ import annotations

import argparse
from typing import Any

from jsonargparse import DefaultHelpFormatter


class OptionsFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """``--name type  text (default: ...)``, line breaks of descriptions and examples kept."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "max_help_position": 32})  # type: ignore[no-untyped-call]

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").rstrip(". ")
        if action.default is argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            return text
        return f"{text} (default: %(default)s)"
