"""Declarations: what a plugin says about a part before anything heavy is imported."""

from __future__ import annotations

import copy
import importlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from polymask.errors import UserError

KINDS = (
    *("systems", "maskings", "targets", "encoders", "tokenizers", "objectives", "datasets"),
    *("evaluations", "recipes"),
)
"""Every kind of part, in the order ``polymask list`` prints them."""

SLOTS = MappingProxyType(
    {
        "tokenizer": "tokenizers",
        "encoder": "encoders",
        "masking": "maskings",
        "target": "targets",
        "objective": "objectives",
        "score": "targets",
        "host": "systems",
        "evaluation": "evaluations",
        "data": "datasets",
    }
)
"""Constructor parameters that take a part, and the kind of that part.

A system (or a part made of parts) that has a parameter of such a name gets it built by name:
``--masking core/block --masking.ratio 0.5``. A parameter may carry a prefix: ``second_masking``.
"""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MODALITY = re.compile(r"[a-z0-9-]+(\+[a-z0-9-]+)*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_MAY_BE_EMPTY = ("prepare", "suits", "paper", "modality", "needs")


def slot_kind(parameter: str) -> str | None:
    """Kind of the part that a constructor parameter takes, or None when it is a plain option."""
    return SLOTS.get(parameter.rpartition("_")[2])


_SCALARS = {str, int, float, bool, type(None)}

_LONGEST = {"name": 64, "summary": 200, "suits": 200, "paper": 1000, "needs": 1000}
"""Letters of what is listed, beside all other parts."""


def holds_nan(value: Any) -> bool:
    """Whether a value is not a number, or one within it is."""
    if isinstance(value, Mapping):
        return any(map(holds_nan, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(holds_nan, value))
    return isinstance(value, float) and math.isnan(value)


def _options(given: Any, where: str) -> Mapping[str, Any]:
    """Options that cannot be changed any more, if they are plain values by name."""
    if not isinstance(given, Mapping) or not set(map(type, given)) <= {str}:
        raise TypeError(f"{where} must map option names to values, got {given!r}")
    options = dict(given)
    for name, value in options.items():
        if holds_nan(value):
            raise ValueError(f"{where}, {name}: give numbers, without nan, got {value!r}")
        if type(value) not in _SCALARS:
            options[name] = _plain(value, f"{where}, {name}")
    return MappingProxyType(options)


def _plain(value: Any, where: str) -> Any:
    """A copy of a list or mapping of plain values."""
    if isinstance(value, Mapping):
        return dict(_options(value, where))
    if type(value) in (list, tuple, set, frozenset):
        plain = set(map(type, value)) <= _SCALARS
        return type(value)(value if plain else [_plain(item, where) for item in value])
    if type(value) not in _SCALARS:
        raise TypeError(f"{where}: give numbers, text, lists or mappings, got {value!r}")
    return value


@dataclass(frozen=True, kw_only=True)
class Part:
    """A declaration: a name and where to import the thing it names. Holds strings only.

    Args:
        name: lower case, digits and hyphens, 64 at most; users see ``<plugin>/<name>``.
        target: ``"package.module:Class"``, imported when the part is first used; of a data set or a recipe
            also a function.
        prepare: of a data set whose target is a reader, what turns what the reader found into samples:
            ``"package.module:Class"``, called with the reader's result and with options of its own.
        summary: one line for ``polymask list``, 200 letters at most.
        suits: what it is a good choice for, one line, where there are several to choose from.
        paper: citation or link, where there is one.
        modality: ``"image"``, ``"audio"``, ..., several joined by ``+`` (``"image+text"``), or ``"any"``.
        defaults: options that differ from the constructor's defaults, slots included, with
            dotted keys (``{"masking": "core/random", "masking.ratio": 0.6}``).
        presets: named groups of options on top of ``defaults``, chosen with ``--preset``.
        needs: what to install when the import fails, e.g. ``"pip install polymask-audio[codec]"``.
        tags: properties the conformance suite goes by (see ``polymask.testing``).
    """

    name: str
    target: str
    summary: str
    prepare: str = ""
    suits: str = ""
    paper: str = ""
    modality: str = "any"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    needs: str = ""
    tags: frozenset[str] = frozenset()
    plugin: str = ""
    kind: str = ""

    def __post_init__(self) -> None:
        named = f"Part {self.name!r:.80}: "
        for key in ("name", "target", "summary", "prepare", "suits", "paper", "modality", "needs"):
            value = getattr(self, key)
            if type(value) is not str or not (value or key in _MAY_BE_EMPTY):
                what = "a string" if key in _MAY_BE_EMPTY else "a non-empty string"
                raise TypeError(f"{named}{key} must be {what}, got {value!r}")
        for key, most in _LONGEST.items():
            if len(getattr(self, key)) > most:
                raise ValueError(f"{named}{key} has {len(getattr(self, key)):,} letters; {most} are the most")
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"Part name {self.name!r}: use lower-case letters and digits joined by hyphens")
        for key in ("target", "prepare"):
            value = getattr(self, key)
            if value and not _TARGET.fullmatch(value):
                raise ValueError(f"{named}{key} {value!r} is not 'package.module:Class'")
        if not _MODALITY.fullmatch(self.modality):
            raise ValueError(f"{named}modality {self.modality!r} is not like 'image', 'image+text' or 'any'")
        for key in ("summary", "suits", "paper", "needs"):
            if not getattr(self, key).isprintable():
                raise ValueError(f"{named}{key} must be one line of text, got {getattr(self, key)!r}")
        given: Any = self.tags
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise TypeError(f"{named}tags is one value, {given!r}; give a set of strings")
        tags = frozenset(given)
        if not set(map(type, tags)) <= {str}:
            raise TypeError(f"{named}tags must be strings, got {given!r}")
        object.__setattr__(self, "tags", tags)
        object.__setattr__(self, "defaults", _options(self.defaults, f"{named}defaults"))
        if not isinstance(self.presets, Mapping):
            raise TypeError(f"{named}presets must map names to options, got {self.presets!r}")
        presets = dict(self.presets)
        for name in presets:
            presets[name] = _options(presets[name], f"{named}preset {name!r}")
        object.__setattr__(self, "presets", MappingProxyType(presets))

    def fields(self) -> dict[str, Any]:
        """What the plugin said of it, as plain values to make it of again."""
        said = {key: value for key, value in vars(self).items() if key not in ("plugin", "kind")}
        presets = {name: dict(options) for name, options in self.presets.items()}
        return {**said, "defaults": dict(self.defaults), "presets": presets}

    def of(self, plugin: str, kind: str) -> Part:
        """The same part, as a plugin has declared it."""
        declared = copy.copy(self)
        object.__setattr__(declared, "plugin", plugin)
        object.__setattr__(declared, "kind", kind)
        return declared

    @property
    def full_name(self) -> str:
        """``<plugin>/<name>``, unique among parts of one kind."""
        return f"{self.plugin}/{self.name}"

    def load(self) -> Any:
        """Import what the declaration names.

        Raises:
            UserError: the import failed; says which part, why, and what to install.
        """
        return self._import(self.target)

    def load_all(self) -> list[Any]:
        """The target and, where there is one, what prepares its result; imported as by :meth:`load`."""
        return [self._import(target) for target in (self.target, self.prepare) if target]

    def _import(self, target: str) -> Any:
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except KeyboardInterrupt as stop:
            stop.add_note(f"stopped while {self.full_name} was imported from {target}")
            raise
        # An extension of the wrong build raises OSError or RuntimeError; a module may call sys.exit.
        except BaseException as error:
            hint = f"; {self.needs}" if self.needs else ""
            raise UserError(
                f"{self.full_name} cannot be imported from {target}: {type(error).__name__}: {error}{hint}"
            ) from error

    def fits(self, modality: str) -> bool:
        """Whether this part and ``modality`` share a modality; ``"any"`` shares one with all."""
        ours, theirs = set(self.modality.split("+")), set(modality.split("+"))
        return bool(ours & theirs) or "any" in ours | theirs
