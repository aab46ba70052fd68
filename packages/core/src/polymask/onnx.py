"""A tokenizer and an encoder, with their classifier if they have one, as an ONNX graph that needs no PyTorch.

Inputs are the entry that the tokenizer reads, prepared as the run's data was, and the lengths of its rows
where rows are padded. Outputs are ``tokens`` ``[B, N, D]``, and ``pooled`` ``[B, D]``, their mean over what
is no padding; of a classifier ``logits`` ``[B, classes]`` alone. The number of rows is free, and so is the
length of padded ones.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from polymask.data import length_key
from polymask.errors import UserError
from polymask.files import writing

if TYPE_CHECKING:
    from polymask.export import Features

GRAPH = "model.onnx"

TOLERANCE = 1e-4
"""Largest difference from PyTorch's outputs, relative to the largest of them, that is rounding."""

LARGE = 1_500_000_000
"""Bytes of weights from which they lie in a file of their own, ``model.onnx.data``: a graph ends at 2 GiB."""


class Graph(nn.Module):
    """What is written: a module whose forward takes ``names`` in order and returns ``outputs`` in order.

    Attributes:
        names: of the inputs.
        outputs: their names.
        lengths: of those inputs whose second axis is free as the first of all is.
    """

    names: Sequence[str]
    outputs: Sequence[str]
    lengths: Sequence[str] = ()

    def example(self, n: int, seed: int) -> tuple[Tensor, ...]:
        """Inputs of n rows."""
        raise NotImplementedError


def write_onnx(features: Features, out: Path) -> dict[str, Any]:
    """Write the graph of a tokenizer and an encoder, or of a classifier, see :func:`write_graph`."""
    return write_graph(_Features(features), out, type(features.encoder).__name__)


def write_graph(graph: Graph, out: Path, what: str) -> dict[str, Any]:
    """Write a graph, once ONNX Runtime has given PyTorch's outputs for batches of other sizes.

    Args:
        graph: in eval mode and on the CPU.
        out: folder for ``model.onnx``.
        what: it is, for messages.

    Returns:
        Names and shapes of inputs and outputs, for a description.

    Raises:
        UserError: a library is missing, or the graph cannot be expressed, with the reason.
    """
    for library in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(library)
        except ImportError as error:
            raise UserError(f"{library} is not installed: pip install 'polymask[onnx]'") from error
    shapes = {name: {0: "batch"} | ({1: "length"} if name in graph.lengths else {}) for name in graph.names}
    with _quiet():
        try:
            program: Any = torch.onnx.export(
                graph,
                graph.example(3, 0),
                input_names=list(graph.names),
                output_names=list(graph.outputs),
                dynamic_shapes=(tuple(shapes.values()),),
                dynamo=True,
                verbose=False,
            )
        except Exception as error:
            raise UserError(
                f"{what} cannot be expressed in ONNX: {_reason(error)}. Choose another format"
            ) from error
    large = sum(weight.nbytes for weight in graph.state_dict().values()) > LARGE
    with writing(out), tempfile.TemporaryDirectory(dir=out) as folder:
        program.save(Path(folder, GRAPH), external_data=large)
        _check(graph, Path(folder, GRAPH))
        for file in sorted(os.listdir(folder), reverse=True):  # weights before what refers to them
            os.replace(Path(folder, file), out / file)
    first = graph.example(1, 0)
    inputs = {
        name: {"dtype": str(x.dtype).removeprefix("torch."), "shape": [*_named(x.shape, shapes[name])]}
        for name, x in zip(graph.names, first, strict=True)
    }
    return {"inputs": inputs, "outputs": list(graph.outputs)}


class _Features(Graph):
    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features: Any = features
        key = features.tokenizer.key
        self.names = [name for name in (key, length_key(key)) if name in features.tokenizer.example(1)]
        self.outputs = ("logits",) if hasattr(features, "classify") else ("tokens", "pooled")
        self.lengths = (key,) if len(self.names) > 1 else ()

    def example(self, n: int, seed: int) -> tuple[Tensor, ...]:
        batch = self.features.tokenizer.example(n, seed)
        return tuple(batch[name] for name in self.names)

    def forward(self, *entries: Tensor) -> tuple[Tensor, ...]:
        batch, made = dict(zip(self.names, entries, strict=True)), self.features
        if self.outputs == ("logits",):
            return (made.classify(batch),)
        tokens = made.encode(batch)
        return tokens.values, tokens.pool()


def _check(graph: Graph, file: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for n, seed in ((1, 1), (5, 2)):
        given = graph.example(n, seed)
        with torch.no_grad():
            expected = graph(*given)
        try:
            found = session.run(None, {k: x.numpy() for k, x in zip(graph.names, given, strict=True)})
        except Exception as error:
            raise UserError(f"its ONNX graph does not run with {n} rows: {_reason(error)}") from error
        for name, theirs, ours in zip(graph.outputs, found, expected, strict=True):
            if theirs.shape != ours.shape:
                raise UserError(
                    f"ONNX Runtime's {name} of {n} rows are {list(theirs.shape)}, not {list(ours.shape)}: "
                    "the graph is not kept, choose another format"
                )
            off = (torch.from_numpy(theirs) - ours).abs().max() / ours.abs().max()
            if not off <= TOLERANCE:
                raise UserError(
                    f"ONNX Runtime's {name} differ from PyTorch's by {off:.2g} of the largest: the graph "
                    "is not kept, choose another format"
                )


def _named(shape: torch.Size, free: Mapping[int, Any]) -> Iterator[int | str]:
    for axis, size in enumerate(shape):
        yield free.get(axis, size)


def _reason(error: BaseException) -> str:
    """The innermost cause, in its first line: what lies around it is advice to developers of exporters."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of an exporter about its own workings."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
