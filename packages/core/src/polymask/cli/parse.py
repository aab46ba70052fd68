"""Splits a command line into words and options, before it is known which options there are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from polymask.config import Source
from polymask.config.layers import COMMAND
from polymask.errors import UserError


@dataclass
class Command:
    """A command line.

    Args:
        words: arguments that are neither options nor their values.
        values: value by option, without dashes; the last one given counts.
        flags: options given without a value.
    """

    words: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)

    def source(self, after: str, words: int = 1, beside: Mapping[str, str] | None = None) -> Source:
        """All options, those without a value set to ``"true"``.

        Args:
            after: what the words are.
            words: how many there may be.
            beside: options that words stand for.

        Raises:
            UserError: there are more words.
        """
        if len(self.words) > words:
            raise UserError(
                f"what is {self.words[words]!r}? after {after} come options, as --name value; a list has no "
                "spaces: --name 1,2"
            )
        return Source(
            COMMAND, {**(beside or {}), **self.values, **dict.fromkeys(self.flags, "true")}, text=True
        )

    def take(self, name: str) -> str | None:
        """Remove an option and return its value.

        Raises:
            UserError: it was given without one.
        """
        if name in self.flags:
            raise UserError(f"--{name} needs a value")
        return self.values.pop(name, None)

    def flag(self, name: str) -> bool:
        """Remove an option without value; whether it was there.

        Raises:
            UserError: it was given with one.
        """
        if name in self.values:
            raise UserError(f"--{name} takes no value, got {self.values[name]!r}")
        there = name in self.flags
        self.flags.discard(name)
        return there


def parse(argv: Sequence[str], flags: Collection[str], short: Mapping[str, str] | None = None) -> Command:
    """Read ``word``, ``--option value``, ``--option=value`` and ``--option``.

    Args:
        argv: the arguments.
        flags: options that never take the next argument as their value.
        short: what short options stand for: ``{"-o": "out"}``.
    """
    short = {"-h": "help", **(short or {})}
    command = Command()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        word = f"--{short[word]}" if word in short else word
        if not word.startswith("--"):
            command.words.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if equals:
            command.values[name] = value
        elif name not in flags and rest and not rest[0].startswith("--") and rest[0] not in short:
            command.values[name] = rest.pop(0)
        else:
            command.flags.add(name)
    return command
