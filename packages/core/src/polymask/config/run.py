"""The configuration of a run, and building single parts by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from polymask.config.layers import TRAINING, Source
from polymask.config.options import options_of
from polymask.config.resolve import Resolved, resolve_part, resolve_system
from polymask.config.training import TrainOptions
from polymask.config.tree import PartConfig, path_beside, plain
from polymask.errors import UserError
from polymask.plugins.registry import Registry, default_registry

CONFIG = "config.yaml"


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
        known, data = options_of(tree.part), tree.options.get("data")
        own = {name: value for name, value in tree.options.items() if name in known}
        system = replace(tree, known=known, options=own)
        training = {name: value for name, value in tree.options.items() if name in TRAINING}
        if data is not None and not data.part.fits(tree.part.modality):
            raise UserError(
                f"{system.name} is a system of {tree.part.modality}, and {data.name} is data of "
                f"{data.part.modality}: choose other --data"
            )
        cuts = own.get("tokenizer")
        part = cuts.part if isinstance(cuts, PartConfig) else None
        if data is not None and part is not None and not data.part.fits(part.modality):
            raise UserError(
                f"{part.full_name} cuts {part.modality}, and {data.name} is data of {data.part.modality}: "
                "choose another --tokenizer (polymask list tokenizers), or other --data"
            )
        return cls(system, resolved.preset, data, TrainOptions(**training))

    def beside(self, folder: str | Path) -> RunConfig:
        """The same with paths of runs and files as they are seen from the folder of the run."""
        places = (name for name, option in TRAINING.items() if option.place)
        seen = {name: path_beside(getattr(self.training, name), folder) for name in places}
        return replace(self, system=self.system.beside(folder), training=replace(self.training, **seen))

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
            place = "" if Path(folder).is_absolute() else f" (looked for in {Path.cwd()})"
            raise UserError(f"{folder} is no run folder{place}: it holds no {CONFIG}")
        source = Source.of_file(path, resume=True)
        if not source.options.get("system"):
            raise UserError(
                f"{path} names no system: it was built in Python. Build it again and load its weights: "
                "Run(folder, system, data).load()"
            )
        resolved = resolve_system(source, registry=registry)
        return cls.of(replace(resolved, notes=()))  # said when the run was made


def build(
    name: str | Mapping[str, Any],
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
        name: ``"vision/mae"``, or ``"mae"`` where that is unique; or a mapping of options with a ``name``, as
            :func:`built_from` gives it.
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
    if isinstance(name, Mapping):
        options = {**name, **options}
        name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"which of the {kind}? give its name, or a mapping with a 'name', got {name!r}")
    part = registry.find(kind, name)
    resolved = resolve_part(part, Source("arguments", options), registry=registry, preset=preset)
    return resolved.require().build(facts)
