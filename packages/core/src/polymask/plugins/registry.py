"""Finds plugins, isolates the broken ones, and resolves names to classes.

The stock loading of entry points is all or nothing: one plugin that raises aborts the rest, and
a second distribution with the same entry-point name vanishes silently. Here each entry point is
loaded on its own, in a fixed order, and whatever goes wrong becomes a record that
``polymask plugins`` shows. Declarations are plain values, so those of other people's plugins are read
in a child process, which may hang or die.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from types import MappingProxyType
from typing import Any, Literal

from polymask.errors import UserError
from polymask.parts import KINDS, Part
from polymask.plugins import hookspecs
from polymask.plugins.declarations import declared, declared_apart, load_light, words

Status = Literal["ok", "disabled", "conflict", "broken"]

FIRST_PARTY = MappingProxyType(
    {
        "core": "polymask",
        **{name: f"polymask-{name}" for name in ("vision", "audio", "language", "pointcloud")},
    }
)
"""The distribution that brings each plugin of ours. No other one may take the name."""

SECONDS = 10.0
"""How long a plugin may take to declare its parts."""


@dataclasses.dataclass
class PluginRecord:
    """What is known about one plugin, working or not."""

    name: str
    distribution: str
    version: str
    module: str
    status: Status = "ok"
    parts: int = 0
    error: str = ""
    trace: str = ""

    @property
    def source(self) -> str:
        """Distribution and version, as named in messages."""
        return f"{self.distribution} {self.version}".strip()


class Registry:
    """All parts of all plugins.

    Args:
        environ: where ``POLYMASK_PLUGINS`` (allow-list), ``POLYMASK_DISABLE`` (deny-list) and
            ``POLYMASK_STRICT`` (raise on the first broken plugin) are read; the process
            environment by default.
        entries: entry points to load instead of the installed ones.
    """

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        entries: Iterable[EntryPoint] | None = None,
    ) -> None:
        env = os.environ if environ is None else environ
        self._allow = _names(env.get("POLYMASK_PLUGINS"))
        self._deny = _names(env.get("POLYMASK_DISABLE")) or frozenset()
        self._strict = env.get("POLYMASK_STRICT", "") not in ("", "0")
        self._parts: dict[str, dict[str, Part]] = {kind: {} for kind in KINDS}
        self._modality = "any"
        self.plugins: list[PluginRecord] = []
        found = self._installed() if entries is None else entries
        for entry in sorted(found, key=lambda entry: (entry.name, *_source(entry))):
            record = PluginRecord(entry.name, *_source(entry), entry.value)
            own = re.sub(r"[-_.]+", "-", record.distribution).lower() == FIRST_PARTY.get(entry.name)
            self._load(record, entry.load, trusted=own)

    def add(self, name: str, plugin: object) -> PluginRecord:
        """Register a module that no entry point names: a notebook's own plugin, a test's.

        The same name again replaces what was added before, so that a cell can be run twice.

        Returns:
            The record; its ``status`` and ``error`` say whether and why it failed.
        """
        for record in [p for p in self.plugins if p.name == name and not p.distribution]:
            self.plugins.remove(record)
            self._drop(name)
        record = PluginRecord(name, "", "", getattr(plugin, "__name__", name))
        self._load(record, lambda: plugin, trusted=True)
        return record

    # ---------------------------------------------------------------- loading

    def _installed(self) -> Iterable[EntryPoint]:
        """Entry points of all distributions; those whose own cannot be read become records."""
        try:
            return entry_points(group=hookspecs.GROUP)
        except Exception:  # one damaged file stops the reading of all
            found: dict[str, Iterable[EntryPoint]] = {}
            for distribution in distributions():
                name, version = _name_and_version(distribution)
                try:
                    own = distribution.entry_points.select(group=hookspecs.GROUP)
                    found.setdefault(name or repr(distribution), own)
                except Exception as error:
                    self.plugins.append(PluginRecord(name, name, version, "entry_points.txt"))
                    self._fail(self.plugins[-1], *words(error))
            return itertools.chain.from_iterable(found.values())

    def _load(self, record: PluginRecord, load: Callable[[], object], trusted: bool) -> None:
        taken = [p for p in self.plugins if p.name == record.name and p.status in ("ok", "broken")]
        self.plugins.append(record)
        if record.name in self._deny or (self._allow is not None and record.name not in self._allow):
            record.status = "disabled"
            record.error = "by POLYMASK_DISABLE" if record.name in self._deny else "not in POLYMASK_PLUGINS"
            return
        if not trusted and record.name in FIRST_PARTY:
            text = f"the plugin name {record.name!r} is reserved for {FIRST_PARTY[record.name]}; rename it"
            self._fail(record, text, status="conflict")
            return
        if taken:
            owner = taken[0].source or taken[0].module
            text = f"the plugin name {record.name!r} is taken by {owner}; uninstall one of the two"
            self._fail(record, text, status="conflict")
            return
        # a fork is safe only where no other thread may hold a lock
        if trusted or not hasattr(os, "fork") or threading.active_count() > 1:
            try:
                parts = declared(record.module, load() if trusted else load_light(record.module, load))
            except BaseException as error:
                if trusted and not isinstance(error, Exception | SystemExit):
                    raise
                self._fail(record, *words(error))
                return
        else:
            parts, text, trace = declared_apart(record.module, load, SECONDS)
            if text:
                hint = "" if trace else f"; POLYMASK_DISABLE={record.name} leaves it out"
                self._fail(record, text + hint, trace)
                return
        for kind, part in parts:
            self._parts[kind][f"{record.name}/{part.name}"] = part.of(record.name, kind)
        record.parts = len(parts)

    def _drop(self, name: str) -> None:
        for kind, table in self._parts.items():
            self._parts[kind] = {full: part for full, part in table.items() if part.plugin != name}

    def _fail(self, record: PluginRecord, error: str, trace: str = "", status: Status = "broken") -> None:
        record.status, record.error, record.trace = status, error, trace
        if self._strict:
            refused = UserError(f"plugin {record.name!r} ({record.source}): {error}")
            refused.add_note(trace)
            raise refused

    # -------------------------------------------------------------- resolving

    def parts(self, kind: str) -> list[Part]:
        """Declarations of one kind, sorted by full name.

        Raises:
            UserError: there is no such kind.
        """
        if kind not in self._parts:
            raise UserError(f"there is no kind of part called {kind!r}; the kinds are {', '.join(KINDS)}")
        return [self._parts[kind][name] for name in sorted(self._parts[kind])]

    def fitting(self, kind: str) -> list[Part]:
        """Those that fit the modality :meth:`within` chose (see :meth:`Part.fits`)."""
        return [part for part in self.parts(kind) if part.fits(self._modality)]

    def find(self, kind: str, name: str) -> Part:
        """The part called ``plugin/part``, or ``part`` where that is unique.

        Raises:
            UserError: unknown or ambiguous, with the candidates and the plugins that did not load.
        """
        found = self._parts.get(kind, {}).get(name)
        return found or self._pick(kind.removesuffix("s"), kind, self.parts(kind), name)

    def locate(self, name: str, kind: str | None = None) -> Part:
        """As :meth:`find`, over parts of all kinds where none is given; a system before its recipe."""
        if kind is not None:
            return self.find(kind, name)
        parts = [part for kind in KINDS for part in self.parts(kind)]
        systems = {part.full_name for part in parts if part.kind == "systems"}
        parts = [part for part in parts if part.kind != "recipes" or part.full_name not in systems]
        return self._pick("part", "parts", parts, name)

    def within(self, modality: str) -> Registry:
        """The same registry, in which a short name means the part that fits a modality.

        ``folder`` is ``vision/folder`` with a system of images and ``audio/folder`` with one of audio.
        """
        narrowed = copy.copy(self)
        narrowed._modality = modality
        return narrowed

    def _pick(self, singular: str, plural: str, parts: list[Part], name: str) -> Part:
        matches = [p for p in parts if p.full_name == name] or [p for p in parts if p.name == name]
        if len(matches) > 1:
            fitting = [part for part in parts if part.fits(self._modality)]
            matches = [part for part in matches if part in fitting]
            if not matches:
                others = ", ".join(part.full_name for part in fitting) or "none"
                raise UserError(
                    f"no {singular} called {name!r} is for {self._modality}; of those installed, these are: "
                    f"{others}"
                )
        if len(matches) == 1:
            return matches[0]
        names = [part.full_name for part in parts]
        if matches:
            several = len({part.kind for part in matches}) > 1
            options = ", ".join(
                f"{p.full_name} (--kind {p.kind})" if several else p.full_name for p in matches
            )
            raise UserError(f"{singular} {name!r} is ambiguous: choose one of {options}")
        close = difflib.get_close_matches(name, [*names, *(part.name for part in parts)], n=3, cutoff=0.5)
        bare = " (what an option without a value means)" if name == "true" else ""
        lines = [f"no {singular} is called {name!r}{bare}"]
        plugin, slash, _ = name.partition("/")
        if singular == "dataset" and (name.startswith((".", "/", "~")) or os.path.exists(name)):
            lines.append(f"a path goes behind the name of its reader: --data folder:{name}")
        elif slash and all(record.name != plugin for record in self.plugins):
            remedy = f": pip install polymask-{plugin}" if plugin in FIRST_PARTY else ""
            lines.append(f"no plugin called {plugin} is installed{remedy}")
        if close:
            lines.append(f"did you mean {' or '.join(dict.fromkeys(close))}?")
        lines.append(f"installed {plural}: {', '.join(names) or 'none'}")
        for record in self.plugins:
            if record.status != "ok":
                of = f" of {record.source}" if record.source else ""
                why = "is disabled" if record.status == "disabled" else "did not load"
                lines.append(f"plugin {record.name!r}{of} {why}: {record.error}")
        raise UserError("\n".join(lines))

    def get(self, kind: str, name: str) -> Any:
        """The class called ``name``."""
        return self.find(kind, name).load()


@functools.cache
def default_registry() -> Registry:
    """The registry of the installed plugins, read once per process."""
    return Registry()


def _names(value: str | None) -> frozenset[str] | None:
    return None if value is None else frozenset(name.strip() for name in value.split(",") if name.strip())


def _source(entry: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution an entry point is from, empty where it has none."""
    return ("", "") if entry.dist is None else _name_and_version(entry.dist)


def _name_and_version(distribution: Distribution) -> tuple[str, str]:
    try:
        metadata = distribution.metadata
        return metadata["Name"] or "", metadata["Version"] or ""
    except Exception:  # damaged
        return "", ""
