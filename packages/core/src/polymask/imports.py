"""Weights that an encoder begins with: of a run or an export of ours, a file, or a model of another library.

    report = load_initial(system, "timm:vit_small_patch16_224.augreg_in21k", facts=facts)

An encoder that other libraries know has a method ``imports() -> Mapping[str, Importer]``, by library. One
that takes weights of other names or sizes than its own has ``adapt(weights, facts) -> Weights``, which
renames and resizes them, and ``extends``, options that may differ. Without, all must be the encoder's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from polymask.checkpoints import CHECKPOINT, differences, read_checkpoint, read_state, some, system_weights
from polymask.config import RUN, RunConfig, build, built_from, options_of, plain
from polymask.errors import UserError
from polymask.files import read_json
from polymask.plugins.registry import default_registry
from polymask.systems.base import System

WEIGHTS, DESCRIPTION = "model.safetensors", "polymask.json"
"""Files of an export as ``safetensors``."""

MUST_AGREE = ("mean", "std", "rate", "standardise")
"""Facts of the data and the tokenizer that weights depend on, unless the encoder adapts them."""


@dataclass(frozen=True)
class Weights:
    """Weights of a model, and what is known of it.

    Args:
        state: tensors by name.
        options: options of the encoder that the model needs, e.g. ``{"heads": 6}``.
        facts: what the model was made for: ``mean``, ``std``, ``patch_size``, ``channels``, ``grid``.
        unused: names of weights that are no part of an encoder, e.g. of a classifier.
        changes: what was resized or converted, one line each.
        encoder: full name of the encoder, where it is one of ours.
    """

    state: Mapping[str, Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    encoder: str | None = None


Importer: TypeAlias = Callable[[str, Mapping[str, Any]], Weights]
"""Reads a model of another library by its name there, given the facts about the data and its tokenizer."""


@dataclass(frozen=True)
class Initial:
    """What a system began with.

    Args:
        source: where the weights come from.
        digest: SHA-256 of all weights of the source.
        loaded: names of the encoder's weights that were set.
        unused: names in the source that were not used.
        changes: what was resized or converted.
        copies: modules of the system that held a copy of the encoder, a teacher for example.
    """

    source: str
    digest: str
    loaded: tuple[str, ...]
    unused: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"initial weights: {len(self.loaded)} tensors of the encoder from {self.source}"]
        lines += [f"  {change}" for change in self.changes]
        if self.copies:
            lines.append(f"  also in {', '.join(self.copies)}")
        if self.unused:
            roots = dict.fromkeys(name.partition(".")[0] for name in self.unused)
            lines.append(f"  not used: {len(self.unused)} tensors ({', '.join(roots)})")
        return "\n".join(lines)


def load_initial(system: System, source: str | Path, *, facts: Mapping[str, Any] | None = None) -> Initial:
    """Set the weights of a system's encoder, and of copies of it that the system holds, in place.

    Args:
        system: newly built.
        source: folder of a run or of an export of ours; a safetensors file; a folder that timm or
            transformers wrote; or ``LIBRARY:NAME``, a model by its name in a library that the encoder knows.
        facts: what is known about the data, e.g. ``mean`` and ``std``.

    Raises:
        UserError: nothing can be loaded, or it does not fit; says what does not and what to choose.
    """
    encoder: Any = system.backbone
    known = {**(facts or {}), **getattr(getattr(system, "tokenizer", None), "provides", {})}
    with torch.random.fork_rng(devices=[]):  # to build a model draws weights that are then replaced
        weights = _read(str(source), encoder, known)
    weights = replace(weights, state=_usable(weights.state, str(source)))
    digest = weights_digest(weights.state)
    try:
        adapted: Weights = encoder.adapt(weights, known) if hasattr(encoder, "adapt") else weights
        require_options(encoder, weights.options)
        _require_same_data(adapted.facts, known, facts or {})
        _require_fit(encoder, adapted.state, str(source))
    except UserError as error:
        kind = (built_from(encoder) or {}).get("name")
        if not kind or weights.encoder in (None, kind):
            raise
        raise UserError(f"{source} holds {weights.encoder}, and this is {kind}: {error}") from error
    # a teacher is copied from the encoder when the system is built, so it is found by its values
    copies = {name: module for name, module in system.named_modules() if _equal(module, encoder)}
    for module in (encoder, *copies.values()):
        module.load_state_dict(adapted.state)
    return Initial(str(source), digest, tuple(adapted.state), adapted.unused, adapted.changes, tuple(copies))


def require_options(encoder: nn.Module, options: Mapping[str, Any]) -> None:
    """Refuse a model of other sizes than the encoder has.

    Raises:
        UserError: says which options to give.
    """
    own = plain(_options(built_from(encoder)))
    fixed = plain(options).keys() - getattr(encoder, "extends", ())
    other = {name: x for name, x in plain(options).items() if name in fixed and own.get(name, x) != x}
    if other:
        has = ", ".join(f"{name} {_text(own[name])}" for name in other)
        give = " ".join(f"--encoder.{name} {_text(value)}" for name, value in other.items())
        raise UserError(f"the encoder has {has}, and these weights need {give}")


def _read(source: str, encoder: Any, facts: Mapping[str, Any]) -> Weights:
    importers: Mapping[str, Importer] = encoder.imports() if hasattr(encoder, "imports") else {}
    library, _, name = source.partition(":")
    if name and library in importers:
        return importers[library](name, facts)
    path = Path(source).expanduser()
    if path.is_file() and path.name == WEIGHTS and (path.parent / DESCRIPTION).is_file():
        path = path.parent
    if (path / CHECKPOINT).is_file():
        return _of_run(path)
    if (path / DESCRIPTION).is_file():
        return _of_export(path)
    if (path / "config.json").is_file():
        library = "timm" if "architecture" in read_json(path / "config.json", dict) else "transformers"
        if library in importers:
            return importers[library](f"local-dir:{path}" if library == "timm" else str(path), facts)
    if path.is_file():
        return Weights(read_state(path))
    forms = ["the folder of a run or an export", "a safetensors file"]
    forms += [f"{library}:NAME" for library in importers]
    more = ""
    if "pretrained" in _options(built_from(encoder)):
        more = "; this encoder takes models of transformers by --encoder.pretrained NAME"
    raise UserError(
        f"--init {source}: no weights there that {type(encoder).__name__} can begin with; it takes "
        f"{', '.join(forms[:-1])} or {forms[-1]}{more}"
    )


def read_description(folder: Path) -> dict[str, dict[str, Any]]:
    """What an export of ours says of its tokenizer, its encoder, the data and, if it has one, its classifier.

    Raises:
        UserError: it is damaged.
    """
    return read_json(
        folder / DESCRIPTION,
        lambda saved: saved | {key: dict(saved[key]) for key in ("tokenizer", "encoder", "facts")},
        "export it again",
    )


def _usable(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Weights in float32, whatever precision they were saved in.

    Raises:
        UserError: some are not finite, or quantised.
    """
    for name, x in state.items():
        if x.dtype in (torch.int8, torch.uint8):
            raise UserError(f"{source}: {name} is quantised, {x.dtype}: give weights in floating point")
        if x.is_floating_point() and not x.isfinite().all():
            raise UserError(f"{source}: {name} holds numbers that are not finite: give other weights")
    return {name: x.float() if x.is_floating_point() else x for name, x in state.items()}


def _of_run(folder: Path) -> Weights:
    config, checkpoint = RunConfig.load(folder), read_checkpoint(folder / CHECKPOINT)
    facts = checkpoint["polymask"]["facts"]
    system: System = config.system.build({**facts, RUN: folder})
    system.load_state_dict(system_weights(checkpoint, system))
    encoder: Any = system.backbone
    tokenizer = getattr(system, "tokenizer", None)
    return _ours(encoder.state_dict(), built_from(encoder), {**facts, **getattr(tokenizer, "provides", {})})


def _of_export(folder: Path) -> Weights:
    description = read_description(folder)
    tokenizer = build(description["tokenizer"], "tokenizers")
    state = read_state(folder / WEIGHTS)
    prefix = "encoder."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return _ours(own, description["encoder"], {**description["facts"], **tokenizer.provides})


def _ours(state: Mapping[str, Tensor], built: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> Weights:
    # sizes, which shapes do not always show; rates of dropout may differ
    sizes = {
        name: value
        for name, value in _options(built).items()
        if isinstance(value, int) or (value and isinstance(value, list | tuple))
    }
    return Weights(state, sizes, facts, encoder=built["name"] if built else None)


def _options(built: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options of an encoder that was built by name, without those that facts fill."""
    if built is None:
        return {}
    options = options_of(default_registry().find("encoders", built["name"]))
    return {
        name: built.get(name, option.default)
        for name, option in options.items()
        if not option.fact and not option.slot
    }


def _require_same_data(theirs: Mapping[str, Any], ours: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    both = [name for name in MUST_AGREE if name in theirs and name in ours]
    other = {name: theirs[name] for name in both if plain(theirs[name]) != plain(ours[name])}
    if other:
        give = " ".join(
            f"--{'data' if name in data else 'tokenizer'}.{name} '{_text(value)}'"
            for name, value in other.items()
        )
        has, had = (", ".join(f"{name} {_text(value[name])}" for name in other) for value in (ours, theirs))
        raise UserError(f"the model was trained on input of {had}, and here it is of {has}: give {give}")


def _require_fit(encoder: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    if found := differences(state, encoder.state_dict(), "the source", "the encoder"):
        raise UserError(
            f"{source} holds other weights than {type(encoder).__name__} with these options; {len(found)} of "
            f"them differ:{some(found)}"
        )


def _equal(module: nn.Module, encoder: nn.Module) -> bool:
    if module is encoder or type(module) is not type(encoder):
        return False
    one, other = module.state_dict(), encoder.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights with their names, types and shapes."""
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _text(value: Any) -> str:
    value = plain(value)
    if isinstance(value, list):
        return f"[{','.join(_text(item) for item in value)}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
