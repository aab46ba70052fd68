"""One configuration, resolved once: names, types and ranges of all options, and where each value came from.

A configuration is made of sources laid over each other: declared defaults < preset < file < command line. Options
are nested by slot, ``{"masking": {"name": "core/block", "ratio": 0.5}, "decoder_dim": 64}``; dotted keys mean the
same. Another part in a slot drops what was set of the one before, at any depth.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from polymask.config.options import UNSET, Option, inspect_options, options_of
from polymask.config.training import ALTERNATIVES, TrainOptions
from polymask.errors import UserError
from polymask.files import read_yaml
from polymask.parts import Part, slot_kind
from polymask.registry import Registry, default_registry

CONFIG = "config.yaml"
RUN = "{run}"
"""At the beginning of an option: the folder of the run, so that what lies beside it is found where both are moved."""

DATA = Option("data", help="which data", shown="NAME[:SOURCE]")
_BUILD_ORDER = ("tokenizers", "encoders", "targets", "maskings", "objectives", "systems")
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
            resume: the run beside the file goes on; without, paths relative to it are written out for another run.

        Raises:
            UserError: there is no such file, or it is something else.
        """
        options = read_yaml(Path(path))
        return cls(f"file {path}", options if resume else resolve_path(options, Path(path).parent))


@dataclass(frozen=True)
class PartConfig:
    """A part that was chosen, and what was set of its options.

    Args:
        part: the part; None for what a verb makes of options of its own.
        known: the options there are.
        options: what was set, checked; a slot holds a PartConfig, an object, or None where it is left empty.
        origins: where each value comes from.
    """

    part: Part | None
    known: Mapping[str, Option]
    options: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Full name of the part."""
        return self.part.full_name if self.part else ""

    @property
    def slots(self) -> dict[str, str]:
        """Options that take parts, with the kind each takes, in the order in which they are built."""
        found = {name: option.slot for name, option in self.known.items() if option.slot}
        return {name: kind for order in _BUILD_ORDER for name, kind in found.items() if kind == order}

    def only(self, names: Iterable[str]) -> PartConfig:
        """The same with some of the options alone."""
        kept = set(names)
        known = {name: option for name, option in self.known.items() if name in kept}
        return replace(self, known=known, options={k: v for k, v in self.options.items() if k in kept})

    def plain(self, defaults: bool = True) -> dict[str, Any]:
        """As nested mappings of plain values, with the name of the part.

        Args:
            defaults: write out what constructors have as defaults; never what facts fill.
        """
        values: dict[str, Any] = {"name": self.name} if self.part else {}
        for name, option in self.known.items():
            value = self.options.get(name, UNSET)
            if isinstance(value, PartConfig):
                values[name] = value.plain(defaults)
            elif value is not UNSET:
                values[name] = plain(value)
            elif defaults and option.default is not UNSET and not option.fact:
                values[name] = plain(option.default)
        return values

    def build(self, facts: Mapping[str, Any] | None = None) -> Any:
        """Build the part: those in its slots first, then itself.

        Facts flow along data -> tokenizer -> the rest: an option of a type :data:`polymask.types.Fact` that nobody
        set takes the fact of its name. What ``text_tokenizer`` says of itself is told to the slots that begin with
        ``text_`` alone.

        Raises:
            UserError: a part cannot be imported, or its constructor refuses a value.
        """
        assert self.part is not None
        facts = dict(facts or {})
        arguments: dict[str, Any] = {}
        told: dict[str, dict[str, Any]] = {"": facts}
        for slot in self.slots:
            own = told.setdefault(slot.rpartition("_")[0], {})
            given = self.options.get(slot)
            if isinstance(given, PartConfig):
                given = given.build({**facts, **own})
            own.update(getattr(given, "provides", {}))
            if slot in self.options:
                arguments[slot] = given
        arguments |= {name: value for name, value in self.options.items() if name not in arguments}
        for name, option in self.known.items():
            if option.fact and name not in arguments and name in facts:
                arguments[name] = facts[name]
        return construct(self.part, arguments, facts.get(RUN))


def construct(part: Part, arguments: Mapping[str, Any], folder: str | os.PathLike[str] | None = None) -> Any:
    """Call the constructor of a part; the object remembers what it was built from, see :func:`built_from`.

    Raises:
        UserError: the constructor refuses a value.
    """
    values = {name: resolve_path(value, folder) for name, value in arguments.items()}
    target, *prepare = part.load_all()
    try:
        if prepare:
            own = options_of(replace(part, prepare=""))
            found = target(**{name: value for name, value in values.items() if name in own})
            built = prepare[0](found, **{name: v for name, v in values.items() if name not in own})
        else:
            built = target(**values)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{part.full_name}: {error}") from error
    with contextlib.suppress(AttributeError):  # a part with __slots__
        built._polymask_built_from = part.full_name, dict(arguments)
    return built


def built_from(built: Any) -> dict[str, Any] | None:
    """Name and arguments of a part that was built by name, those in its slots and facts included, else None."""
    name, arguments = getattr(built, "_polymask_built_from", ("", {}))
    if not name:
        return None
    options: dict[str, Any] = {"name": name}
    for name, value in arguments.items():
        if slot_kind(name) and value is not None:
            value = built_from(value)
            if value is None:  # given as an object: nobody knows what it was built from
                return None
        options[name] = value
    return options


@dataclass(frozen=True)
class Resolved:
    """What sources come to. Help shows it whatever is wrong with it.

    Args:
        tree: the options, by part.
        preset: that was chosen.
        wrong: what cannot be, in words.
    """

    tree: PartConfig
    preset: str | None = None
    wrong: Sequence[str] = ()

    def require(self) -> PartConfig:
        """The options, if nothing is wrong.

        Raises:
            UserError: something is; says the first of it.
        """
        if self.wrong:
            raise UserError(self.wrong[0])
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
            sources: lowest first; each holds ``system``, ``preset``, ``data`` (``"name"``, ``"name:source"`` or a
                mapping with a ``name``), training options by name, and all else for the system.
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
        return cls.resolve(source, registry=registry)


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
        options: constructor options; slots by name (``masking="core/block"``), by object, or as mappings with a
            ``name``; dotted keys in a ``**{"masking.ratio": 0.5}``.

    Raises:
        UserError: unknown names or options, or values that a constructor refuses.
    """
    registry = registry or default_registry()
    part = registry.find(kind, name)
    return (
        resolve_part(part, Source("arguments", options), registry=registry, preset=preset)
        .require()
        .build(facts)
    )


def resolve_system(
    *sources: Source | Mapping[str, Any],
    registry: Registry | None = None,
    training: bool = True,
    extra: Mapping[str, Option] | None = None,
) -> Resolved:
    """Resolve the options of a system, of its data and of its training, in one tree.

    Args:
        sources: lowest first, see :meth:`RunConfig.resolve`.
        registry: where names are looked up; the installed plugins by default.
        training: whether there are training options; without, those of presets and files are passed over.
        extra: options of a verb's own.

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
    if not training:
        given = [
            s if s.label == COMMAND else replace(s, options=_without(TRAINING, s.options)) for s in given
        ]
    known = {"data": DATA, **(TRAINING if training else {}), **(extra or {})}
    return resolve_part(part, *given, registry=registry, preset=head["preset"], extra=known)


def resolve_part(
    part: Part | None,
    *sources: Source,
    registry: Registry,
    preset: str | None = None,
    extra: Mapping[str, Option] | None = None,
    inner: str | None = None,
    name: str = "",
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

    Raises:
        UserError: the preset or the name of a part is unknown.
    """
    resolver = _Resolver(
        registry.within(part.modality) if part else registry, part.full_name if part else name, inner
    )
    if part is not None and preset is not None and preset not in part.presets:
        names = ", ".join(sorted(part.presets)) or "none"
        raise UserError(f"{part.full_name} has no preset {preset!r}; it has {names}")
    given = [replace(source, options=nest(source.options)) for source in sources]
    tree = resolver.part(part, given, preset, extra or {})
    return Resolved(tree, preset, [*resolver.unknown(), *resolver.wrong])


COMMAND = "command line"
"""Label of what was given there."""


@dataclass
class _Resolver:
    """Resolves one tree of parts, noting what is wrong with it.

    Args:
        registry: where names are looked up.
        name: of what is resolved, for messages.
        inner: preset of parts in slots.
    """

    registry: Registry
    name: str
    inner: str | None = None
    wrong: list[str] = field(default_factory=list)
    all: dict[str, Option] = field(default_factory=dict)
    strangers: list[tuple[str, str, str]] = field(default_factory=list)

    def part(
        self,
        part: Part | None,
        sources: Sequence[Source],
        preset: str | None,
        extra: Mapping[str, Option],
        path: str = "",
    ) -> PartConfig:
        """A part and, in turn, those in its slots."""
        known, prefix = dict(extra), f"{path}." if path else ""
        if part is not None:
            known = {**options_of(part), **known}
            declared = [Source(f"defaults of {part.full_name}", nest(part.defaults))]
            if preset in part.presets:
                declared.append(Source(f"preset {preset!r}", self._of(part, preset, known)))
            sources = [*declared, *sources]
        self.all |= {f"{prefix}{name}": option for name, option in known.items()}
        options, origins, filled = {}, {}, {name: [] for name, option in known.items() if option.slot}
        for source in _alternatives(sources, known):
            for name, value in _items(source.options, known):
                if name not in known:
                    self.strangers.append(
                        (f"{prefix}{name}", source.label, part.full_name if part else self.name)
                    )
                elif name in filled:
                    filled[name].append(replace(source, options={"": value}))
                else:
                    options[name], origins[name] = (
                        self._checked(known[name], value, source, prefix),
                        source.label,
                    )
        for name, given in filled.items():
            value = self._slot(known[name], given, preset, f"{prefix}{name}")
            if value is not UNSET:
                options[name] = value
            if (
                value in (UNSET, None)
                and known[name].default is UNSET
                and name != "data"
                and part is not None
            ):
                self.wrong.append(f"{part.full_name} needs a {name}: give --{prefix}{name} NAME")
        return PartConfig(part, known, options, origins)

    def _of(self, part: Part, preset: str, known: Mapping[str, Option]) -> dict[str, Any]:
        """A part's preset; where it is built inside another one, without data and training."""
        return {
            key: value
            for key, value in nest(part.presets[preset]).items()
            if key in known or key not in RUN_LEVEL
        }

    def _slot(self, option: Option, given: Sequence[Source], preset: str | None, path: str) -> Any:
        """What fills a slot: a part with its options, an object, or nothing."""
        chosen: Part | Any = UNSET
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
            value = dict(value)
            name = value.pop("name", None)
            if name in ("none", "null"):
                chosen, kept = None, []
            elif name is not None:
                part = self.registry.find(option.slot, str(name))
                if part is not chosen:
                    # what was set before any part was named holds for whichever it is
                    kept = kept if chosen is UNSET else []
                    replaced, chosen = isinstance(chosen, Part), part
            if value:
                kept.append(replace(source, options=value))
        if isinstance(chosen, Part):
            if chosen.kind == "datasets":
                kept = [self._known_to(chosen, source) for source in kept]
            if path.count(".") > _DEEPEST:
                raise UserError(f"{chosen.full_name} holds itself without end: --{path}")
            own = preset if replaced and chosen.kind in _SIZED else self.inner
            return self.part(chosen, kept, own, {}, path)
        # what a preset asks of the data holds for whichever is chosen, if any is
        asked = [s for s in kept if option.slot != "datasets" or not s.label.startswith("preset")]
        if asked and chosen in (UNSET, None):
            inner = next(iter(flatten(asked[0].options)))
            self.wrong.append(f"which {path}? give --{path} NAME beside --{path}.{inner}")
        return chosen

    def _known_to(self, part: Part, source: Source) -> Source:
        """What a preset asks of its data, without what this data set does not have."""
        if not source.label.startswith("preset"):
            return source
        return replace(source, options={k: v for k, v in source.options.items() if k in options_of(part)})

    def _checked(self, option: Option, value: Any, source: Source, prefix: str) -> Any:
        from polymask.config.values import convert

        try:
            return convert(option.type, value, source.text)
        except ValueError as error:
            bare = " (what an option without a value means)" if source.text and value == "true" else ""
            rule = f" {error}" if str(error) else ""
            takes, got = f"{option.type_name}{rule}", f"{value!r}{bare}{_place(source)}"
            self.wrong.append(f"--{prefix}{option.name} takes {takes}, got {got}")
            return value

    def unknown(self) -> Iterator[str]:
        """What to say of options that there are not."""
        for key, label, name in self.strangers:
            owner, _, last = key.rpartition(".")
            close = difflib.get_close_matches(key, self.all, n=2, cutoff=0.6)
            close = close or [known for known in self.all if known.rpartition(".")[2] == last][:3]
            whose = f"{name}, the {owner}," if owner else name
            lines = [f"{whose} has no option --{key} (from the {label})"]
            if close:
                lines.append(f"did you mean {' or '.join(f'--{known}' for known in close)}?")
            listed = owner or label == "arguments"  # Python has no --help
            siblings = [known for known in self.all if listed and known.rpartition(".")[0] == owner]
            lines.append(
                f"it has {', '.join(f'--{k}' for k in siblings)}" if siblings else "--help lists all options"
            )
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


def plain(value: Any) -> Any:
    """Numbers, strings, lists and mappings only, as YAML and JSON have them."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


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


def resolve_path(value: Any, folder: str | os.PathLike[str] | None) -> Any:
    """An option that begins with :data:`RUN` as a path below that folder, in nested options too; any other as it is.

    Raises:
        UserError: no folder is known.
    """
    if isinstance(value, Mapping):
        return {key: resolve_path(item, folder) for key, item in value.items()}
    if not isinstance(value, str) or not value.startswith(RUN):
        return value
    if folder is None:
        raise UserError(f"{value}: there is no run yet whose folder {RUN} could stand for; give a path")
    # the run's folder need not be there yet, so ".." is not for the file system to follow
    return os.path.normpath(f"{os.fspath(folder)}{value.removeprefix(RUN)}")


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
