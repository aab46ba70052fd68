"""Parts that were chosen, the options they have, and what was set of them.

jsonargparse gets a parser of exactly these options: for help, types, and checks of every value,
whether it came from the command line, a file, a preset or a declaration.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from polymask.cli.options import UNSET, Option
from polymask.cli.terminal import plain, show_value
from polymask.errors import UserError
from polymask.training.options import overlay
from polymask.wiring import Options, layer, nest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


@dataclass
class Setup:
    """Parts chosen, and what was set of their options.

    Args:
        name: what is set up, for messages: a system, or a masking to look at.
        layers: what was set, nested and with full names of parts, by where it was set; the later
            counts. Values of the command line are text.
        groups: the options there are, by title of their group, then by dotted name.
    """

    name: str
    layers: dict[str, Options]
    groups: dict[str, dict[str, Option]] = field(default_factory=dict)

    @property
    def options(self) -> Options:
        """The layers laid over each other; steps above take back epochs below, and so on."""
        merged: Options = {}
        for options in self.layers.values():
            kept = overlay(merged, options)
            merged = layer({key: value for key, value in merged.items() if key in kept}, options)
        return merged

    @property
    def known(self) -> dict[str, Option]:
        """All options there are, by dotted name."""
        return {key: option for group in self.groups.values() for key, option in group.items()}

    def config(self) -> Options:
        """What was set, checked and converted to the types of the options: plain nested values.

        What nobody set is left out, for facts about the data or constructors' defaults to fill.

        Raises:
            UserError: an option that no chosen part has, or a value of another type.
        """
        from jsonargparse import ArgumentError

        known = self.known
        values = flatten(self.options, known)
        for key, value in values.items():
            if key not in known:
                raise UserError(self._no_option(key))
            if known[key].shown == "NAME" and isinstance(value, Mapping):
                inner = next(iter(flatten(value, {}, f"{key}.")), key)
                raise UserError(f"which {key}? give --{key} NAME beside --{inner}")
        try:
            parsed = _parser(self.groups).parse_object(nest(values), defaults=False)
        except ArgumentError as error:
            raise UserError(self._wrong_value(str(error), values)) from error
        config: Options = plain(parsed.as_dict())
        return config

    def help(
        self, prog: str, description: str, example: str, first: Mapping[str, Option] | None = None
    ) -> str:
        """The help of a verb: all options, with what each is set to.

        Args:
            prog: the command.
            description: first lines.
            example: a command line that works.
            first: options that the verb reads by itself.
        """
        from polymask.cli.help import OptionsFormatter

        groups = {"how to run": first, **self.groups} if first else self.groups
        parser = _parser(
            groups,
            flatten(self.options, self.known),
            prog=prog,
            usage=f"{prog} [options]",
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=OptionsFormatter,
        )
        return parser.format_help()

    def _no_option(self, key: str) -> str:
        names = list(self.known)
        owner, _, last = key.rpartition(".")
        close = difflib.get_close_matches(key, names, n=2, cutoff=0.6)
        close = close or [name for name in names if name.rpartition(".")[2] == last][:3]
        where = next(label for label, options in reversed(self.layers.items()) if key in flatten(options, {}))
        part = flatten(self.options, {}).get(f"{owner}.name")
        whose = f"{part}, the {owner}," if part else self.name
        lines = [f"{whose} has no option --{key} (from the {where})"]
        if close:
            lines.append(f"did you mean {' or '.join(f'--{name}' for name in close)}?")
        siblings = [name for name in names if owner and name.rpartition(".")[0] == owner]
        if siblings:
            lines.append(f"it has {', '.join(f'--{name}' for name in siblings)}")
        else:
            lines.append("--help lists all options")
        return "\n".join(lines)

    def _wrong_value(self, message: str, values: Options) -> str:
        found = re.search(r'key "([^"]+)"', message)
        key = found[1] if found else ""
        if key not in values:
            return message
        bare = " (what an option without a value means)" if values[key] == "true" else ""
        return f"--{key} takes {self.known[key].type_name}, got {values[key]!r}{bare}"


def _parser(
    groups: Mapping[str, Mapping[str, Option]], values: Options | None = None, **about: Any
) -> ArgumentParser:
    """A parser of all options, with defaults where there are values: it takes any default unchecked."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False, **about)
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for key, option in options.items():
            default = UNSET if values is None else values.get(key, option.default)
            action = group.add_argument(
                f"--{key}",
                type=option.type,
                metavar=option.type_name.strip(),
                default=argparse.SUPPRESS if default is UNSET else show_value(default),
                help=option.help or " ",
            )
            action.option_strings = action.option_strings[:1]  # no "--key+" for lists
    return parser


def flatten(options: Mapping[str, Any], known: Mapping[str, Option], prefix: str = "") -> Options:
    """Values by dotted name; a mapping that is the value of a known option stays whole."""
    flat: Options = {}
    for key, value in options.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in known:
            flat |= flatten(value, known, f"{name}.")
        else:
            flat[name] = value
    return flat
