"""Hands the encoder of a system to those who will use it, in the form they load.

Any encoder that was built by name can be written as ``safetensors``: its weights, and a JSON file
of how to build it again (:func:`load`). An encoder that other libraries know has a method
``exports() -> Mapping[str, Exporter]`` whose keys are further formats. A system that was trained on labels
is written with its classifier, by ``classifier_exports(classifier)`` of the encoder. A system that has more
to hand on than its encoder has a method ``exports()`` of its own.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
import torch
from torch import Tensor, nn

from polymask import functional
from polymask.checkpoints import CHECKPOINT, differences, read_checkpoint, read_state, some
from polymask.config import build, built_from, plain
from polymask.errors import UserError
from polymask.files import atomic, write_json, writing
from polymask.imports import DESCRIPTION, WEIGHTS, read_description
from polymask.plugins.registry import Registry, default_registry
from polymask.protocols import Batch, Encoder, Tokenizer
from polymask.run import Run
from polymask.systems.base import System
from polymask.systems.supervised import pooler_of
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


class Classifier(Features):
    """A tokenizer, an encoder and the classifier on it that was trained on labels.

    Args:
        pool: how features become one vector, see :class:`polymask.systems.supervised.Supervised`.
        names: of the classes.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        pool: str,
        names: Sequence[str],
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(tokenizer=tokenizer, encoder=encoder, facts=facts)
        self.pool, self.names = pool, tuple(map(str, names))
        self.pooler, self.head = pooler_of(pool, encoder.out_dim), nn.Linear(encoder.out_dim, len(names))

    def classify(self, x: Tensor | Batch) -> Tensor:
        """Logits ``[B, classes]`` of a batch, or of its one entry."""
        logits: Tensor = self.head(self.pooler(self(x)))
        return logits

    @property
    def classifier(self) -> Classifier:
        """What predicts, as systems that were trained on labels name it."""
        return self


def export(
    source: Run | System | str | Path,
    format: str,
    out: str | Path,
    *,
    facts: Mapping[str, Any] | None = None,
    head: bool = True,
) -> Path:
    """Write the encoder of a system for use elsewhere, with its classifier if it has one, without its data.

    Args:
        source: a run or its folder, or a system.
        format: ``"safetensors"``, or one the encoder offers (see :func:`formats`).
        out: folder to write; files of the same names are replaced.
        facts: what is known about the data; a run knows by itself.
        head: write the classifier of a system that was trained on labels too.

    Returns:
        ``out``.

    Raises:
        UserError: the encoder has no such format, or cannot be expressed in it.
    """
    run = Run.open(source) if isinstance(source, str | Path) else source
    system, known = (run.system, run.facts) if isinstance(run, Run) else (run, {})
    features = _features(system, {**known, **(facts or {})})
    if head and hasattr(system, "classifier"):
        features = _classifier(system, features, _names(run, system))
    own: Mapping[str, Exporter] = getattr(system, "exports", dict)()
    available = {**_exporters(features), **own}
    if own and format not in own and built_from(features.encoder) is None:
        raise UserError(
            f"the encoder of {type(system).__name__} is no part that is built by itself: export the system, "
            f"--format {' or '.join(own)}"
        )
    if format not in available:
        encoder, choices = type(features.encoder).__name__, " or ".join(available)
        if isinstance(features, Classifier) and format in _exporters(_features(system, {})):
            raise UserError(
                f"{format} has no classifier on {encoder} that computes the same as this one: choose "
                f"{choices}, or export the encoder alone with --no-head"
            )
        raise UserError(f"{encoder} with its options here cannot be exported to {format!r}: choose {choices}")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a folder to export to")
    if format not in own and not as_probed(system):
        warnings.warn(
            f"{type(system).__name__} encodes by more than its tokenizer and its encoder, which are exported "
            "alone: their features are not those that probes and polymask embed RUN give",
            stacklevel=2,
        )
    new = not out.exists()
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        available[format]({**features.facts, **features.tokenizer.provides}, out)
    except UserError:
        with contextlib.suppress(OSError):  # it holds something
            if new:
                out.rmdir()
        raise
    return out


def formats(system: System) -> tuple[str, ...]:
    """Formats the encoder of a system can be exported to."""
    return tuple(_exporters(_features(system, {})))


def load(folder: str | Path, registry: Registry | None = None) -> Features:
    """Build an encoder exported as ``safetensors`` again, in eval mode; a :class:`Classifier` if it is one.

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
    parts = {
        slot: build(description[slot], kind, registry=registry)
        for slot, kind in (("tokenizer", "tokenizers"), ("encoder", "encoders"))
    }
    facts, own = description["facts"], description.get("classifier")
    features = Classifier(**parts, facts=facts, **own) if own else Features(**parts, facts=facts)
    state = read_state(folder / WEIGHTS)
    if unlike := differences(state, features.state_dict(), WEIGHTS, DESCRIPTION):
        raise UserError(
            f"{folder / WEIGHTS} is not of this {DESCRIPTION}: export it again; {len(unlike)} of its weights "
            f"differ:{some(unlike)}"
        )
    features.load_state_dict(state)
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
        raise UserError(
            f"{type(system).__name__} has no tokenizer and encoder of its own to export: its run is what "
            "polymask evaluate takes"
        )
    return Features(tokenizer=tokenizer, encoder=encoder, facts=facts)


@torch.no_grad()
def as_probed(system: System) -> bool:
    """Whether tokenizer and encoder alone give the features of a system."""
    if type(system).encode is System.encode:
        return True
    system = copy.deepcopy(system).cpu().eval()
    batch = system.example(2)
    one = system.encode(batch).values
    try:
        other = _features(system, {}).encode(batch).values
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):  # it takes something else
        return False
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def _exporters(features: Features) -> dict[str, Exporter]:
    def write(facts: Mapping[str, Any], out: Path) -> None:
        _write(features, out)

    def write_graph(facts: Mapping[str, Any], out: Path) -> None:
        from polymask.onnx import write_onnx

        whole = copy.deepcopy(features).cpu().eval()
        save_json({**write_onnx(whole, out), **_about(features)}, out / DESCRIPTION)

    own: Mapping[str, Exporter]
    if isinstance(features, Classifier):
        own = getattr(features.encoder, "classifier_exports", lambda classifier: {})(features)
    else:
        own = getattr(features.encoder, "exports", dict)()
    return {"safetensors": write, "onnx": write_graph, **own}


def _classifier(system: Any, features: Features, names: Sequence[str]) -> Classifier:
    found = Classifier(
        tokenizer=features.tokenizer,
        encoder=features.encoder,
        pool=system.pool,
        names=names,
        facts=features.facts,
    )
    found.pooler, found.head = system.classifier.pooler, system.classifier.head
    return found


def _names(source: Any, system: Any) -> list[str]:
    """Names of the classes, or their numbers."""
    path = source.folder / CHECKPOINT if isinstance(source, Run) else None
    known = read_checkpoint(path)["polymask"]["data"]["classes"] if path and path.is_file() else []
    classes = system.classifier.head.out_features
    return known if len(known) == classes else list(map(str, range(classes)))


def _write(features: Features, out: Path) -> None:
    description: dict[str, Any] = {
        slot: built_from(getattr(features, slot)) for slot in ("tokenizer", "encoder")
    }
    for slot, options in description.items():
        if options is None:
            raise UserError(
                f"nothing is known about how the {slot} {type(getattr(features, slot)).__name__} was built: "
                "build the system by name (polymask.build) to export it as safetensors"
            )
    save_state(features.state_dict(), out / WEIGHTS)
    save_json({**description, **_about(features)}, out / DESCRIPTION)


def _about(features: Features) -> dict[str, Any]:
    """What a description says of the classifier and of the data."""
    if not isinstance(features, Classifier):
        return {"facts": features.facts}
    return {"classifier": {"pool": features.pool, "names": features.names}, "facts": features.facts}
