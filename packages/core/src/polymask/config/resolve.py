"""One configuration, resolved once: names, types and ranges of all options, and where each value came from.

Sources are laid over each other: declared defaults < preset < file < command line. Options are nested by
slot, ``{"masking": {"name": "core/block", "ratio": 0.5}, "decoder_dim": 64}``; dotted keys mean the same.
Another part in a slot drops what was set of the one before, at any depth; so does another model.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polymask.config.layers import RUN_LEVEL, TRAINING, Source, flatten
from polymask.config.options import UNSET, Option, Options, options_of
from polymask.config.training import ALTERNATIVES
from polymask.config.tree import PartConfig
from polymask.errors import UserError
from polymask.parts import Part, holds_nan
from polymask.plugins.registry import Registry, default_registry

Given = tuple[Source, Mapping[str, Any]]
"""Options of one part, nested, and the source they are from."""

DATA = Option("data", help="which data", shown="NAME[:SOURCE]")

_HEAD = ("system", "preset")
"""What names the options of a system, and is none of them."""

_SIZED = ("encoders", "systems")
"""Kinds whose presets are sizes: one put in place of a preset's takes its own preset of that name."""

_DEEPEST = 16
"""Slots in slots; more come from a part whose defaults put it in its own slot."""


@dataclass(frozen=True)
class Resolved:
    """What sources come to. Help shows it whatever is wrong with it.

    Args:
        tree: the options, by part.
        preset: that was chosen.
        wrong: what cannot be, in words.
        notes: what to tell the user, in words.
    """

    tree: PartConfig
    preset: str | None = None
    wrong: Sequence[str] = ()
    notes: Sequence[str] = ()

    def require(self) -> PartConfig:
        """The options, if nothing is wrong; warns of what there is to note.

        Raises:
            UserError: something is wrong; says the first of it.
        """
        if self.wrong:
            raise UserError(self.wrong[0])
        for note in self.notes:
            warnings.warn(note, stacklevel=3)
        return self.tree


def resolve_system(
    *sources: Source | Mapping[str, Any],
    registry: Registry | None = None,
    training: bool = True,
    extra: Mapping[str, Option] | None = None,
    check: bool = True,
) -> Resolved:
    """Resolve the options of a system, of its data and of its training, in one tree.

    Args:
        sources: lowest first, see :meth:`RunConfig.resolve`.
        registry: where names are looked up; the installed plugins by default.
        training: whether there are training options; without, those of presets and files are passed over.
        extra: options of a verb's own.
        check: check values against their types; help does without.

    Raises:
        UserError: no system is named, or its name, its preset or the name of a part is unknown.
    """
    registry = registry or default_registry()
    given = [source if isinstance(source, Source) else Source("arguments", source) for source in sources]
    head: dict[str, Any] = {}
    for source in given:
        said = {key: source.options[key] for key in _HEAD if source.options.get(key) is not None}
        for key, value in said.items():
            if not isinstance(value, str):
                raise UserError(f"{key} takes a name, got {value!r}{source.place}")
        head |= said
    if "system" not in head:
        systems = ", ".join(part.full_name for part in registry.parts("systems"))
        raise UserError(f"which system? give one of {systems}")
    part = registry.find("systems", head["system"])
    # presets and files may say how to train, and are passed over; the command line may not
    given = [s.without(_HEAD if training or s.text else {*_HEAD, *TRAINING}) for s in given]
    known = {"data": DATA, **(TRAINING if training else {}), **(extra or {})}
    return resolve_part(part, *given, registry=registry, preset=head.get("preset"), extra=known, check=check)


def resolve_part(
    part: Part | None,
    *sources: Source,
    registry: Registry,
    preset: str | None = None,
    extra: Mapping[str, Option] | None = None,
    inner: str | None = None,
    name: str = "",
    check: bool = True,
) -> Resolved:
    """Resolve the options of a part of any kind.

    Args:
        part: the part; None for options of a verb's own alone.
        sources: lowest first, over the part's declared defaults and its preset.
        registry: where names are looked up.
        preset: of the part.
        extra: options beside those of the part.
        inner: preset that parts in slots take where they have it, below what the outer one says of them.
        name: of what has the options, for messages, where it is no part.
        check: check values against their types; help does without.

    Raises:
        UserError: the preset or the name of a part is unknown.
    """
    if part is not None and preset is not None and preset not in part.presets:
        names = ", ".join(sorted(part.presets)) or "none"
        raise UserError(f"{part.full_name} has no preset {preset!r}; it has {names}")
    if part is not None:
        registry, name = registry.within(part.modality), part.full_name
    resolver = _Resolver(registry, name, preset, inner, check)
    tree = resolver.part(part, [(source, source.options) for source in sources], preset, extra or {})
    return Resolved(tree, preset, [*resolver.refusals(), *resolver.wrong], resolver.notes)


@dataclass
class _Resolver:
    """Resolves one tree of parts, noting what is wrong with it; arguments as of :func:`resolve_part`."""

    registry: Registry
    name: str
    preset: str | None = None
    inner: str | None = None
    check: bool = True
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    known: dict[str, Option] = field(default_factory=dict)
    unknown: list[tuple[str, str, str]] = field(default_factory=list)

    def part(
        self,
        part: Part | None,
        given: Sequence[Given],
        preset: str | None,
        extra: Mapping[str, Option],
        path: str = "",
    ) -> PartConfig:
        """A part and, in turn, those in its slots."""
        name, prefix = part.full_name if part else self.name, f"{path}." if path else ""
        known = {**(options_of(part) if part else {}), **extra}
        self.known |= {f"{prefix}{key}": option for key, option in known.items()}
        slots: dict[str, list[tuple[Source, Any]]] = {key: [] for key, option in known.items() if option.slot}
        options: dict[str, Any] = {}
        origins: dict[str, str] = {}
        declared = self._declared(part, preset, known) if part else ()
        for source, values in [*declared, *given]:
            for pair in ALTERNATIVES if "steps" in known else ():
                for one, other in (pair, pair[::-1]):
                    if values.get(one) not in (None, "null"):
                        options.pop(other, None), origins.pop(other, None)
            items = list(values.items())
            for key, value in items:
                if key in slots:
                    slots[key].append((source, value))
                elif key in known:
                    checked = self._checked(known[key], value, source, prefix)
                    if checked != options.get(key, known[key].default):
                        for one in (one for one, o in known.items() if o.of == key and one not in values):
                            options.pop(one, None), origins.pop(one, None)
                    options[key], origins[key] = checked, source.label
                elif isinstance(value, Mapping) and any(one.startswith(f"{key}.") for one in known):
                    # options that a verb groups, as probe.draws
                    items += [(f"{key}.{inner}", one) for inner, one in value.items()]
                elif key == "source" and path == "data":
                    self.wrong.append(f"{name} takes no source: leave out :{value} behind its name")
                else:
                    self.unknown.append((f"{prefix}{key}", source.label, name))
        for key, fillings in slots.items():
            value = self._slot(known[key], fillings, f"{prefix}{key}")
            if value is not UNSET:
                options[key] = value
            # that of a run may be left out, or given in Python
            needed = part and (key != "data" or part.kind == "datasets")
            if needed and value in (UNSET, None) and known[key].default is UNSET:
                self.wrong.append(f"{name} needs a {key}: give --{prefix}{key} NAME")
        return PartConfig(part, known, options, origins)

    def _declared(self, part: Part, preset: str | None, known: Options) -> Iterator[Given]:
        """A part's defaults and, over them, its preset; inside another part without data and training."""
        source = Source(f"defaults of {part.full_name}", part.defaults)
        yield source, source.options
        if preset is not None and preset in part.presets:
            source = Source(f"preset {preset!r}", part.presets[preset])
            yield source, source.without(RUN_LEVEL - known.keys()).options

    def _slot(self, option: Option, given: Sequence[tuple[Source, Any]], path: str) -> Any:
        """What fills a slot: a part with its options, an object, or nothing."""
        chosen: Any = UNSET
        kept, replaced = list[Given](), False
        assert option.slot is not None
        for source, value in given:
            if not isinstance(value, Mapping):
                if isinstance(value, str | int | float | list | tuple):
                    takes = option.shown or "NAME"
                    self.wrong.append(f"--{path} takes {takes}, got {value!r}{source.place}")
                chosen, kept = value, []
                continue
            options = dict(value)
            name = options.pop("name", None)
            if name in ("none", "null"):
                chosen, kept = None, []
            elif name is not None:
                part = self.registry.find(option.slot, str(name))
                if part is not chosen:
                    # what was set before any part was named holds for whichever it is
                    kept = kept if chosen is UNSET else []
                    replaced, chosen = isinstance(chosen, Part), part
            kept.append((source, options))
        if isinstance(chosen, Part):
            if path.count(".") > _DEEPEST:
                raise UserError(f"{chosen.full_name} holds itself without end: --{path}")
            if option.slot == "systems" and chosen not in self.registry.fitting("systems"):
                foreign = f"{chosen.full_name}, a system of {chosen.modality}"
                self.wrong.append(f"{self.name} hosts no {foreign}: choose another --{path}")
            if option.slot == "datasets":
                kept = [self._fitting(chosen, *one) for one in kept]
            return self.part(chosen, kept, self._preset_of(chosen, replaced, given, path), {}, path)
        # what a preset asks of the data holds for whichever is chosen, if any is
        asked = [o for s, o in kept if o and not (option.slot == "datasets" and s.is_preset)]
        if asked and chosen in (UNSET, None):
            inner = next(iter(flatten(asked[0])))
            self.wrong.append(f"which {path}? give --{path} NAME beside --{path}.{inner}")
        return chosen

    def _preset_of(self, part: Part, replaced: bool, given: Sequence[Given], path: str) -> str | None:
        """The preset of a part in a slot, where it replaces what a preset chose; a missing one is noted."""
        if self.preset is None or not replaced or part.kind not in _SIZED:
            return self.inner
        if self.preset not in part.presets and any(source.is_preset for source, _ in given):
            self.notes.append(
                f"preset {self.preset!r} gives no sizes for {part.full_name}: its own defaults hold; "
                f"--help lists them under --{path}"
            )
        return self.preset

    def _fitting(self, part: Part, source: Source, options: Mapping[str, Any]) -> Given:
        """What a preset asks of the data, without what this data set does not have."""
        missing = [key for key in options if key not in options_of(part)]
        if not source.is_preset or not missing:
            return source, options
        lacks = f"{part.full_name} has no {', '.join(missing)}"
        self.notes.append(f"{lacks}, which the preset asks for: left out")
        return source, {key: value for key, value in options.items() if key not in missing}

    def _checked(self, option: Option, value: Any, source: Source, prefix: str) -> Any:
        """A value as its type has it; what it takes where it has not."""
        if not self.check:
            return value
        from polymask.config.values import convert

        try:
            converted = convert(option.type, value, source.text)
            if holds_nan(converted) and not holds_nan(option.default):
                raise ValueError("without nan")
            return converted
        except ValueError as error:
            rule = f" {error}" if str(error) else ""
            bare = " (what an option without a value means)" if source.text and value == "true" else ""
            takes, got = f"{option.type_name}{rule}", f"{value!r}{bare}{source.place}"
            self.wrong.append(f"--{prefix}{option.name} takes {takes}, got {got}")
            return value

    def refusals(self) -> Iterator[str]:
        """What to say of options that there are not."""
        for key, label, name in self.unknown:
            owner, _, last = key.rpartition(".")
            close = difflib.get_close_matches(key, self.known, n=2, cutoff=0.6)
            close = close or [known for known in self.known if known.rpartition(".")[2] == last][:3]
            listed = owner or label == "arguments"  # Python has no --help
            siblings = [known for known in self.known if listed and known.rpartition(".")[0] == owner]
            line = f"{name}{f', the {owner},' if owner else ''} has no option --{key} (from the {label})"
            meant = f"\ndid you mean {' or '.join(f'--{known}' for known in close)}?" if close else ""
            names = ", ".join(f"--{known}" for known in siblings)
            yield f"{line}{meant}\n" + (f"it has {names}" if siblings else "--help lists all options")
