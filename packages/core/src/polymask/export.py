"""Hands the encoder of a system to those who will use it, in the form they load.

Any encoder that was built by name can be written as ``safetensors``: its weights, and a JSON file
of how to build it again (:func:`load`). An encoder that other libraries know has a method
``exports() -> Mapping[str, Exporter]`` whose keys are further formats.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
from torch import Tensor, nn

from polymask import functional
from polymask.checkpoints import read_state
from polymask.config import build, built_from, plain
from polymask.errors import UserError
from polymask.files import atomic, write_json, writing
from polymask.imports import DESCRIPTION, WEIGHTS, read_description
from polymask.protocols import Batch, Encoder, Tokenizer
from polymask.registry import Registry, default_registry
from polymask.run import Run
from polymask.systems.base import System
from polymask.tokens import Tokens

Exporter: TypeAlias = Callable[[Mapping[str, Any], Path], None]
"""Writes an encoder into a folder, given the facts about its data and its tokenizer."""


class Features(nn.Module):
    """The part of a system that outlives its pre-training: a tokenizer and an encoder.

    Args:
        tokenizer: cuts an input into tokens.
        encoder: encodes them.
        facts: what is known about the data, e.g. the ``mean`` and ``std`` it was normalised with.
    """

    def __init__(
        self, *, tokenizer: Tokenizer, encoder: Encoder, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.facts = tokenizer, encoder, dict(facts or {})

    def forward(self, x: Tensor | Batch) -> Tokens:
        """Features of a batch, or of its one entry, as :meth:`polymask.System.encode` gives them."""
        return self.encode({self.tokenizer.key: x} if isinstance(x, Tensor) else x)

    def encode(self, batch: Batch) -> Tokens:
        """Features of a batch, as :meth:`polymask.System.encode` gives them."""
        return functional.encode(self.tokenizer, self.encoder, batch)

    @property
    def backbone(self) -> Encoder:
        """The encoder, as a system names it."""
        return self.encoder


def export(
    source: Run | System | str | Path, format: str, out: str | Path, *, facts: Mapping[str, Any] | None = None
) -> Path:
    """Write the encoder of a system for use elsewhere. Data need not be at hand.

    Args:
        source: a run or its folder, or a system.
        format: ``"safetensors"``, or one the encoder offers (see :func:`formats`).
        out: folder to write; files of the same names are replaced.
        facts: what is known about the data; a run knows by itself.

    Returns:
        ``out``.

    Raises:
        UserError: the encoder has no such format, or cannot be expressed in it.
    """
    run = Run.open(source) if isinstance(source, str | Path) else source
    system, known = (run.system, run.facts) if isinstance(run, Run) else (run, {})
    features = _features(system, {**known, **(facts or {})})
    available = _exporters(features)
    if format not in available:
        encoder, choices = type(features.encoder).__name__, " or ".join(available)
        raise UserError(f"{encoder} cannot be exported to {format!r}: choose {choices}")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a folder to export to")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    available[format]({**features.facts, **features.tokenizer.provides}, out)
    return out


def formats(system: System) -> tuple[str, ...]:
    """Formats the encoder of a system can be exported to."""
    return tuple(_exporters(_features(system, {})))


def load(folder: str | Path, registry: Registry | None = None) -> Features:
    """Build an encoder exported as ``safetensors`` again, in eval mode.

    Args:
        folder: where it was written.
        registry: where to look its parts up; the installed plugins by default.

    Raises:
        UserError: not such a folder, or a part of it is not installed.
    """
    folder, registry = Path(folder), registry or default_registry()
    if not (folder / DESCRIPTION).is_file():
        raise UserError(
            f"{folder} holds no {DESCRIPTION}: give a folder that "
            "`polymask export --format safetensors` wrote"
        )
    description = read_description(folder)
    parts = {}
    for slot, kind in (("tokenizer", "tokenizers"), ("encoder", "encoders")):
        options = dict(description[slot])
        parts[slot] = build(options.pop("name"), kind, registry=registry, **options)
    features = Features(**parts, facts=description["facts"])
    try:
        features.load_state_dict(read_state(folder / WEIGHTS))
    except RuntimeError as error:
        raise UserError(
            f"{folder / WEIGHTS} is not of this {DESCRIPTION}: export it again; {error}"
        ) from error
    return features.eval()


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Write weights as safetensors, marked as PyTorch's, which transformers insists on."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with atomic(path, "wb") as file:  # the library's own file would be closed to all others
        file.write(safetensors.torch.save(tensors, metadata={"format": "pt"}))


def save_json(value: Mapping[str, Any], path: Path) -> None:
    """Write JSON for people to read too."""
    write_json(path, plain(value))


def _features(system: System, facts: Mapping[str, Any]) -> Features:
    tokenizer, encoder = getattr(system, "tokenizer", None), getattr(system, "backbone", None)
    if tokenizer is None or encoder is None:
        raise UserError(f"{type(system).__name__} has no tokenizer and encoder of its own to export")
    return Features(tokenizer=tokenizer, encoder=encoder, facts=facts)


def _exporters(features: Features) -> dict[str, Exporter]:
    def write(facts: Mapping[str, Any], out: Path) -> None:
        _write(features, out)

    def write_graph(facts: Mapping[str, Any], out: Path) -> None:
        from polymask.onnx import write_onnx

        whole = copy.deepcopy(features).cpu().eval()
        save_json({**write_onnx(whole, out), "facts": features.facts}, out / DESCRIPTION)

    offered: Callable[[], Mapping[str, Exporter]] = getattr(features.encoder, "exports", dict)
    return {"safetensors": write, "onnx": write_graph, **offered()}


def _write(features: Features, out: Path) -> None:
    description = {slot: built_from(getattr(features, slot)) for slot in ("tokenizer", "encoder")}
    for slot, options in description.items():
        if options is None:
            raise UserError(
                f"nothing is known about how the {slot} {type(getattr(features, slot)).__name__} was built: "
                "build the system by name (polymask.build) to export it as safetensors"
            )
    save_state(features.state_dict(), out / WEIGHTS)
    save_json({**description, "facts": features.facts}, out / DESCRIPTION)
