"""One configuration, resolved once: names, types and ranges of all options, and where each value came from.

Sources are laid over each other: declared defaults < preset < file < command line. Options are nested by
slot, ``{"masking": {"name": "core/block", "ratio": 0.5}, "decoder_dim": 64}``; dotted keys mean the same.
Another part in a slot drops what was set of the one before, at any depth.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from polymask.config.options import UNSET, Option, inspect_options, options_of
from polymask.config.training import ALTERNATIVES, TrainOptions
from polymask.config.tree import RUN, PartConfig, plain, resolve_path
from polymask.errors import UserError
from polymask.files import read_yaml
from polymask.parts import Part, slot_kind
from polymask.registry import Registry, default_registry

CONFIG = "config.yaml"

COMMAND = "command line"
"""Label of the options given there."""

DATA = Option("data", help="which data", shown="NAME[:SOURCE]")

_SIZED = ("encoders", "systems")
"""Kinds whose presets are sizes: one put in place of a preset's takes its own preset of that name."""

_DEEPEST = 16
"""Slots in slots; more come from a part whose defaults put it in its own slot."""


@dataclass(frozen=True)
class Source:
    """Options from one place.

    Args:
        label: the place, for messages: ``"command line"``.
        options: nested or dotted.
        text: whether values are text, to be read as YAML where an option takes no text.
    """

    label: str
    options: Mapping[str, Any]
    text: bool = False

    @classmethod
    def of_file(cls, path: str | Path, *, resume: bool = False) -> Source:
        """The options in a YAML file.

        Args:
            path: of the file.
            resume: the run beside the file goes on; without, paths relative to it are written out.

        Raises:
            UserError: there is no such file, or it is something else.
        """
        options = read_yaml(Path(path))
        return cls(f"file {path}", options if resume else resolve_path(options, Path(path).parent))

    @property
    def is_preset(self) -> bool:
        """Whether the options are a preset's, which may ask more of the data than it has."""
        return self.label.startswith("preset ")


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


@dataclass(frozen=True)
class RunConfig:
    """All that makes a run: a system, its data, and how it is trained.

    Args:
        system: with the parts in its slots.
        preset: name of the group of options that was chosen.
        data: the data set; None where :meth:`polymask.run.Run.create` is given an object.
        training: how to train.
    """

    system: PartConfig
    preset: str | None = None
    data: PartConfig | None = None
    training: TrainOptions = field(default_factory=TrainOptions)

    @classmethod
    def resolve(cls, *sources: Source | Mapping[str, Any], registry: Registry | None = None) -> RunConfig:
        """Resolve a configuration.

        Args:
            sources: lowest first; each holds ``system``, ``preset``, ``data`` (``"name"``, ``"name:source"``
                or a mapping with a ``name``), training options by name, and all else for the system.
            registry: where names are looked up; the installed plugins by default.

        Raises:
            UserError: an unknown name, option or preset, or a value of another type or out of range.
        """
        return cls.of(resolve_system(*sources, registry=registry))

    @classmethod
    def of(cls, resolved: Resolved) -> RunConfig:
        """The configuration in what was resolved; options of a verb's own are passed over."""
        tree = resolved.require()
        assert tree.part is not None
        training = {name: value for name, value in tree.options.items() if name in TRAINING}
        system, data = tree.only(options_of(tree.part)), tree.options.get("data")
        if data is not None and not data.part.fits(tree.part.modality):
            raise UserError(
                f"{system.name} is a system of {tree.part.modality}, and {data.name} is data of "
                f"{data.part.modality}: choose other --data"
            )
        return cls(system, resolved.preset, data, TrainOptions(**training))

    def plain(self) -> dict[str, Any]:
        """As ``config.yaml`` has it: defaults written out, what facts fill left out."""
        system = self.system.plain()
        head = {"system": system.pop("name"), "preset": self.preset}
        return {
            **head,
            "data": self.data.plain() if self.data else None,
            **system,
            **plain(vars(self.training)),
        }

    @classmethod
    def load(cls, folder: str | Path, registry: Registry | None = None) -> RunConfig:
        """The configuration of a run.

        Raises:
            UserError: there is none, or it does not fit what is installed.
        """
        path = Path(folder) / CONFIG
        if not path.is_file():
            raise UserError(f"{folder} is no run folder: it holds no {CONFIG}")
        source = Source.of_file(path, resume=True)
        if not source.options.get("system"):
            raise UserError(
                f"{path} names no system: it was built in Python. Build it again and load its weights: "
                "Run(folder, system, data).load()"
            )
        resolved = resolve_system(source, registry=registry)
        return cls.of(replace(resolved, notes=()))  # said when the run was made


def build(
    name: str,
    /,
    kind: str = "systems",
    *,
    preset: str | None = None,
    facts: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    **options: Any,
) -> Any:
    """Build a part by name.

    Args:
        name: ``"vision/mae"``, or ``"mae"`` where that is unique.
        kind: of the part, as ``polymask list`` names kinds.
        preset: named group of options, e.g. ``"small"``.
        facts: what is known about the data, e.g. ``{"size": (28, 28), "channels": 1}``.
        registry: where names are looked up; the installed plugins by default.
        options: constructor options; slots by name (``masking="core/block"``), by object, or as mappings with
            a ``name``; dotted keys in a ``**{"masking.ratio": 0.5}``.

    Raises:
        UserError: unknown names or options, or values that a constructor refuses.
    """
    registry = registry or default_registry()
    part = registry.find(kind, name)
    resolved = resolve_part(part, Source("arguments", options), registry=registry, preset=preset)
    return resolved.require().build(facts)


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
    head = {key: _last(given, key) for key in ("system", "preset")}
    if not isinstance(head["system"], str):
        systems = ", ".join(part.full_name for part in registry.parts("systems"))
        raise UserError(f"which system? give one of {systems}")
    part = registry.find("systems", head["system"])
    given = [replace(source, options=_without(head, source.options)) for source in given]
    if not training:  # presets and files may say how to train, and are passed over; the command line may not
        given = [s if s.text else replace(s, options=_without(TRAINING, s.options)) for s in given]
    known = {"data": DATA, **(TRAINING if training else {}), **(extra or {})}
    return resolve_part(part, *given, registry=registry, preset=head["preset"], extra=known, check=check)


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
    given = [replace(source, options=nest(source.options)) for source in sources]
    tree = resolver.part(part, given, preset, extra or {})
    return Resolved(tree, preset, [*resolver.refusals(), *resolver.wrong], resolver.notes)


@dataclass
class _Resolver:
    """Resolves one tree of parts, noting what is wrong with it.

    Args:
        registry: where names are looked up.
        name: of what is resolved, for messages.
        preset: that was chosen, which parts put in place of others take too.
        inner: preset of all parts in slots.
        check: whether values are checked.
    """

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
        sources: Sequence[Source],
        preset: str | None,
        extra: Mapping[str, Option],
        path: str = "",
    ) -> PartConfig:
        """A part and, in turn, those in its slots."""
        name, prefix = part.full_name if part else self.name, f"{path}." if path else ""
        known = {**(options_of(part) if part else {}), **extra}
        self.known |= {f"{prefix}{key}": option for key, option in known.items()}
        options: dict[str, Any] = {}
        origins: dict[str, str] = {}
        slots: dict[str, list[Source]] = {key: [] for key, option in known.items() if option.slot}
        for source in _alternatives([*self._declared(part, preset, known), *sources], known):
            for key, value in _items(source.options, known):
                if key in slots:
                    slots[key].append(replace(source, options={"": value}))
                elif key in known:
                    options[key] = self._checked(known[key], value, source, prefix)
                    origins[key] = source.label
                else:
                    self.unknown.append((f"{prefix}{key}", source.label, name))
        for key, given in slots.items():
            value = self._slot(known[key], given, f"{prefix}{key}")
            if value is not UNSET:
                options[key] = value
            if part and key != "data" and value in (UNSET, None) and known[key].default is UNSET:
                self.wrong.append(f"{name} needs a {key}: give --{prefix}{key} NAME")
        return PartConfig(part, known, options, origins)

    def _declared(self, part: Part | None, preset: str | None, known: Mapping[str, Option]) -> list[Source]:
        """A part's defaults and, over them, its preset; inside another part without data and training."""
        if part is None:
            return []
        declared = [Source(f"defaults of {part.full_name}", nest(part.defaults))]
        if preset is not None and preset in part.presets:
            options = nest(part.presets[preset])
            options = {k: v for k, v in options.items() if k in known or k not in RUN_LEVEL}
            declared.append(Source(f"preset {preset!r}", options))
        return declared

    def _slot(self, option: Option, given: Sequence[Source], path: str) -> Any:
        """What fills a slot: a part with its options, an object, or nothing."""
        chosen: Any = UNSET
        kept: list[Source] = []
        replaced = False
        assert option.slot is not None
        for source in given:
            value = source.options[""]
            if not isinstance(value, Mapping):
                if isinstance(value, str | int | float | list | tuple):
                    takes = option.shown or "NAME"
                    self.wrong.append(f"--{path} takes {takes}, got {value!r}{_place(source)}")
                chosen, kept = value, []
                continue
            name = value.get("name")
            if name in ("none", "null"):
                chosen, kept = None, []
            elif name is not None:
                part = self.registry.find(option.slot, str(name))
                if part is not chosen:
                    # what was set before any part was named holds for whichever it is
                    kept = kept if chosen is UNSET else []
                    replaced, chosen = isinstance(chosen, Part), part
            if value.keys() > {"name"} or name is None:
                kept.append(replace(source, options=_without(("name",), value)))
        if isinstance(chosen, Part):
            if path.count(".") > _DEEPEST:
                raise UserError(f"{chosen.full_name} holds itself without end: --{path}")
            kept = [self._fitting(chosen, source) for source in kept]
            return self.part(chosen, kept, self._preset_of(chosen, replaced, path), {}, path)
        # what a preset asks of the data holds for whichever is chosen, if any is
        asked = [s for s in kept if s.options and not (option.slot == "datasets" and s.is_preset)]
        if asked and chosen in (UNSET, None):
            inner = next(iter(flatten(asked[0].options)))
            self.wrong.append(f"which {path}? give --{path} NAME beside --{path}.{inner}")
        return chosen

    def _preset_of(self, part: Part, replaced: bool, path: str) -> str | None:
        """The preset of a part in a slot, where the part that a preset chose was replaced by it."""
        if self.preset is None or not replaced or part.kind not in _SIZED:
            return self.inner
        if self.preset not in part.presets:
            self.notes.append(
                f"preset {self.preset!r} gives no sizes for {part.full_name}: its own defaults hold; "
                f"--help lists them under --{path}"
            )
        return self.preset

    def _fitting(self, part: Part, source: Source) -> Source:
        """What a preset asks of the data, without what this data set does not have."""
        missing = [key for key in source.options if key not in options_of(part)]
        if part.kind != "datasets" or not source.is_preset or not missing:
            return source
        self.notes.append(
            f"{part.full_name} has no {', '.join(missing)}, which the preset asks for: left out"
        )
        return replace(source, options=_without(missing, source.options))

    def _checked(self, option: Option, value: Any, source: Source, prefix: str) -> Any:
        if not self.check:
            return value
        from polymask.config.values import convert

        try:
            return convert(option.type, value, source.text)
        except ValueError as error:
            rule = f" {error}" if str(error) else ""
            bare = " (what an option without a value means)" if source.text and value == "true" else ""
            takes, got = f"{option.type_name}{rule}", f"{value!r}{bare}{_place(source)}"
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
            lines = [f"{name}{f', the {owner},' if owner else ''} has no option --{key} (from the {label})"]
            if close:
                lines.append(f"did you mean {' or '.join(f'--{known}' for known in close)}?")
            names = ", ".join(f"--{known}" for known in siblings)
            lines.append(f"it has {names}" if siblings else "--help lists all options")
            yield "\n".join(lines)


# ------------------------------------------------------------------------------ of options


TRAINING = {name: replace(option, group="training") for name, option in inspect_options(TrainOptions).items()}
"""The options of training, by name."""

RUN_LEVEL = {*TRAINING, "data"}
"""What presets of systems say beside the options of the system."""


def nest(options: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys made nested, names of parts made mappings: the one form used from here on."""
    result: dict[str, Any] = {}
    for key, value in options.items():
        head, _, rest = str(key).partition(".")
        kind = slot_kind(head)
        if rest:
            value = nest({rest: value})
        elif kind and isinstance(value, str):
            name, colon, source = value.partition(":") if kind == "datasets" else (value, "", "")
            value = {"name": name, **({"source": source} if colon else {})}
        elif isinstance(value, Mapping):
            value = nest(value)
        there = result.get(head)
        result[head] = (
            merge(there, value) if isinstance(there, dict) and isinstance(value, Mapping) else value
        )
    return result


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested options of one source laid over others of the same."""
    result = dict(below)
    for key, value in above.items():
        there = result.get(key)
        result[key] = merge(there, value) if isinstance(there, dict) and isinstance(value, Mapping) else value
    return result


def flatten(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def as_host_preset(name: str, host: Mapping[str, Any]) -> dict[str, Any]:
    """A host's preset as one of the system that hosts it.

    Args:
        name: of the host.
        host: its preset; its options go under ``host``, those of data and training stay as they are.
    """
    options = {key if key.partition(".")[0] in RUN_LEVEL else f"host.{key}": host[key] for key in host}
    return {"host": name, **options}


def relative_to_run(name: str) -> str:
    """How an option names something beside the folder of the run, wherever both are moved later."""
    return f"{RUN}/../{name}"


def _items(options: Mapping[str, Any], known: Mapping[str, Option]) -> Iterator[tuple[str, Any]]:
    """Options by name, those in a group of a verb's (``probe.draws``) by dotted name."""
    for name, value in options.items():
        grouped = (
            isinstance(value, Mapping) and name not in known and any(k.startswith(f"{name}.") for k in known)
        )
        yield from ((f"{name}.{inner}", v) for inner, v in value.items()) if grouped else [(name, value)]


def _alternatives(sources: Sequence[Source], known: Mapping[str, Option]) -> list[Source]:
    """Sources in which ``steps`` above has taken back ``epochs`` below, and so on."""
    if "steps" not in known:
        return list(sources)
    result: list[Source] = []
    for source in sources:
        back = {
            pair[1 - i]
            for pair in ALTERNATIVES
            for i in (0, 1)
            if source.options.get(pair[i]) not in (None, "null")
            and source.options.get(pair[1 - i]) in (None, "null")
        }
        result = (
            [replace(below, options=_without(back, below.options)) for below in result] if back else result
        )
        result.append(source)
    return result


def _place(source: Source) -> str:
    """Where a wrong value comes from, where it is not what was just given."""
    return "" if source.label in (COMMAND, "arguments") else f" (from the {source.label})"


def _last(sources: Sequence[Source], key: str) -> Any:
    found = [source.options[key] for source in sources if source.options.get(key) is not None]
    return found[-1] if found else None


def _without(keys: Iterable[str], options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in keys}
