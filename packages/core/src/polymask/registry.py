"""Finds plugins, isolates the broken ones, and resolves names to classes.

The stock loading of entry points is all or nothing: one plugin that raises aborts the rest, and
a second distribution with the same entry-point name vanishes silently. Here each entry point is
loaded on its own, in a fixed order, and whatever goes wrong becomes a record that
``polymask plugins`` shows.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Literal

import pluggy

from polymask import hookspecs
from polymask.errors import UserError
from polymask.parts import KINDS, Part

HEAVY = ("torch", "timm", "torchaudio", "torchvision", "transformers", "lightning")
"""Modules that a plugin module must not import: they would slow down ``polymask --help``."""

Status = Literal["ok", "disabled", "conflict", "broken"]


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
        self._manager = pluggy.PluginManager("polymask")
        self._manager.add_hookspecs(hookspecs)
        self._parts: dict[str, dict[str, Part]] = {kind: {} for kind in KINDS}
        self.plugins: list[PluginRecord] = []
        found = entry_points(group=hookspecs.GROUP) if entries is None else entries
        for entry in sorted(found, key=lambda e: (e.name, e.dist.name if e.dist else "")):
            dist, version = (entry.dist.name, entry.dist.version) if entry.dist else ("", "")
            self._load(PluginRecord(entry.name, dist, version, entry.value), entry.load)

    def add(self, name: str, module: ModuleType) -> PluginRecord:
        """Register a module that no entry point names (a notebook's own plugin, a test's)."""
        record = PluginRecord(name, "", "", getattr(module, "__name__", name))
        self._load(record, lambda: module)
        return record

    # ---------------------------------------------------------------- loading

    def _load(self, record: PluginRecord, load: Callable[[], ModuleType]) -> None:
        self.plugins.append(record)
        owner = next((p for p in self.plugins[:-1] if p.name == record.name and p.status == "ok"), None)
        if record.name in self._deny or (self._allow is not None and record.name not in self._allow):
            record.status = "disabled"
            return
        if owner is not None:
            self._fail(
                record,
                ValueError(f"the plugin name {record.name!r} is taken by {owner.source or owner.module}"),
                "conflict",
            )
            return
        light = {name for name in HEAVY if name in sys.modules}
        try:
            module = load()
            heavy = sorted(name for name in HEAVY if name in sys.modules and name not in light)
            if heavy:
                raise ImportError(
                    f"importing {record.module} imports {', '.join(heavy)}: declare parts as strings "
                    "and import the rest in the module their target names"
                )
            _check_api(getattr(module, "POLYMASK_API", None))
            self._manager.register(module, record.name)
            parts = self._declared(module, record)
        # A plugin may call sys.exit or fail in ways of its own: it must not take others with it.
        except (Exception, SystemExit) as error:
            if self._manager.has_plugin(record.name):
                self._manager.unregister(name=record.name)
            self._fail(record, error, "broken")
            return
        for part in parts:
            self._parts[part.kind][part.full_name] = part
        record.parts = len(parts)

    def _declared(self, module: ModuleType, record: PluginRecord) -> list[Part]:
        known = {f"polymask_register_{kind}": kind for kind in KINDS}
        parts: dict[tuple[str, str], Part] = {}
        for caller in self._manager.get_hookcallers(module) or []:
            if caller.name not in known:
                close = difflib.get_close_matches(caller.name, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise AttributeError(f"{record.module} implements an unknown hook {caller.name!r}{hint}")
            kind = known[caller.name]
            for impl in (i for i in caller.get_hookimpls() if i.plugin is module):
                for part in impl.function():
                    if not isinstance(part, Part):
                        raise TypeError(f"{caller.name} returned {part!r}, which is not a polymask.Part")
                    if (kind, part.name) in parts:
                        raise ValueError(f"{record.module} declares {kind} {part.name!r} twice")
                    parts[kind, part.name] = dataclasses.replace(part, plugin=record.name, kind=kind)
        return list(parts.values())

    def _fail(self, record: PluginRecord, error: BaseException, status: Status) -> None:
        record.status = status
        record.error = f"{type(error).__name__}: {error}"
        record.trace = "".join(traceback.format_exception(error))
        if self._strict:
            raise UserError(f"plugin {record.name!r} ({record.source}): {record.error}") from error

    # -------------------------------------------------------------- resolving

    def parts(self, kind: str) -> list[Part]:
        """Declarations of one kind, sorted by full name."""
        return [self._parts[kind][name] for name in sorted(self._parts[kind])]

    def find(self, kind: str, name: str) -> Part:
        """The part called ``plugin/part``, or ``part`` where that is unique.

        Raises:
            UserError: unknown or ambiguous, with the candidates and the broken plugins.
        """
        table = self._parts[kind]
        if name in table:
            return table[name]
        short = [part for part in self.parts(kind) if part.name == name]
        if len(short) == 1:
            return short[0]
        singular = kind.removesuffix("s")
        if short:
            options = ", ".join(part.full_name for part in short)
            raise UserError(f"{singular} {name!r} is ambiguous: choose one of {options}")
        close = difflib.get_close_matches(name, [*table, *(p.name for p in table.values())], n=3, cutoff=0.5)
        lines = [f"no {singular} is called {name!r}"]
        if close:
            lines.append(f"did you mean {' or '.join(dict.fromkeys(close))}?")
        lines.append(f"installed {kind}: {', '.join(sorted(table)) or 'none'}")
        broken = [p for p in self.plugins if p.status in ("broken", "conflict")]
        lines += [f"plugin {p.name!r} of {p.source} did not load ({p.error})" for p in broken]
        raise UserError("\n".join(lines))

    def load(self, part: Part) -> type:
        """Import what a declaration names.

        Raises:
            UserError: the import failed; says which part, why, and what to install.
        """
        module, _, attribute = part.target.partition(":")
        try:
            loaded: type = getattr(importlib.import_module(module), attribute)
        # A compiled extension of the wrong build raises OSError or RuntimeError, not ImportError.
        except Exception as error:
            hint = f"; {part.needs}" if part.needs else ""
            raise UserError(
                f"{part.full_name} cannot be imported from {part.target}: "
                f"{type(error).__name__}: {error}{hint}"
            ) from error
        return loaded

    def get(self, kind: str, name: str) -> Any:
        """The class called ``name``: :meth:`find`, then :meth:`load`."""
        return self.load(self.find(kind, name))


@functools.cache
def default_registry() -> Registry:
    """The registry of the installed plugins, read once per process."""
    return Registry()


def _names(value: str | None) -> frozenset[str] | None:
    return None if value is None else frozenset(name.strip() for name in value.split(",") if name.strip())


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
