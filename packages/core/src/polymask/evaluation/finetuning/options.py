"""The options of fine-tuning runs: a recipe over the tokenizer and the encoder of a run or an export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polymask.checkpoints import CHECKPOINT, read_checkpoint
from polymask.config import (
    CONFIG,
    PartConfig,
    Resolved,
    RunConfig,
    Source,
    options_of,
    resolve_path,
    resolve_system,
)
from polymask.config.options import without_facts
from polymask.errors import UserError
from polymask.imports import DESCRIPTION, read_description
from polymask.parts import Part
from polymask.plugins.registry import Registry, default_registry
from polymask.run import restore_config

PRESET = "finetune"
"""Of the system, unless another is chosen."""


def configured(
    source: Path, *given: Source, registry: Registry | None = None, check: bool = True, **extra: Any
) -> Resolved:
    """Options of the runs: those given, over the tokenizer, the encoder and the data of a run or an export.

    Args:
        source: folder of a run or an export.
        given: lowest first.
        registry: where names are looked up; the installed plugins by default.
        check: check values against their types; help does without.
        extra: ``extra`` options of a verb's own, see :func:`polymask.config.resolve_system`.

    Raises:
        UserError: neither is there, or something does not fit.
    """
    registry = registry or default_registry()
    parts, data = _parts_of(source, registry)
    modality = registry.find("tokenizers", parts["tokenizer"]["name"]).modality
    registry = registry.within(modality)
    systems = [part for part in registry.fitting("systems") if part.name == "supervised"]
    if len(systems) != 1:
        raise UserError(f"no system called 'supervised' is installed for {modality}, which fine-tuning needs")
    below: dict[str, Any] = {"system": systems[0].full_name, "preset": PRESET, **parts}
    asked = [one.options.get("data") for one in given]
    chosen = next(
        (one["name"] for one in reversed(asked) if isinstance(one, Mapping) and "name" in one), None
    )
    if chosen is None and data is not None:
        below["data"] = data
    elif chosen is not None:
        below["data"] = {"name": chosen, **_preparation(source, registry.find("datasets", chosen))}
    return resolve_system(Source("run", below), *given, registry=registry, check=check, **extra)


def _parts_of(source: Path, registry: Registry) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Tokenizer and encoder with their options, but for rates of dropped paths, and the data of a run."""
    data = None
    restore_config(source)
    if (source / DESCRIPTION).is_file():
        description = read_description(source)
        parts = {slot: dict(description[slot]) for slot in ("tokenizer", "encoder")}
    elif (source / CONFIG).is_file():
        config = RunConfig.load(source, registry)
        tree: PartConfig = config.system
        while "encoder" not in tree.options and isinstance(tree.options.get("host"), PartConfig):
            tree = tree.options["host"]
        found = {slot: tree.options.get(slot) for slot in ("tokenizer", "encoder")}
        if not all(isinstance(part, PartConfig) for part in found.values()):
            raise UserError(f"{config.system.name} has no tokenizer and encoder of its own to fine-tune")
        parts = {slot: part.plain(defaults=False) for slot, part in found.items() if part is not None}
        data = config.data.plain(defaults=False) if config.data else None
    else:
        raise UserError(
            f"{source} holds no run and no export: give the folder of a run, or of "
            "`polymask export --format safetensors`"
        )
    for slot, kind in (("tokenizer", "tokenizers"), ("encoder", "encoders")):
        parts[slot] = without_facts(registry.find(kind, parts[slot]["name"]), parts[slot])
        parts[slot].pop("drop_path", None)  # the recipe's to say
    return resolve_path(parts, source), resolve_path(data, source)


def _preparation(source: Path, part: Part) -> dict[str, Any]:
    """Options with which other data is brought into the form that the encoder knows."""
    facts: Mapping[str, Any] = {}
    if (source / CHECKPOINT).is_file():
        facts = read_checkpoint(source / CHECKPOINT)["polymask"]["facts"]
    elif (source / DESCRIPTION).is_file():
        facts = read_description(source)["facts"]
    known = options_of(part)
    return {name: value for name, value in (facts.get("preparation") or {}).items() if name in known}
