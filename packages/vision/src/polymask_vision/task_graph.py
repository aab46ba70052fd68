"""A network of layers with its answers, as an ONNX graph."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from polymask import UserError
from polymask.export import save_json
from polymask.onnx import Graph, write_graph


class Tasks(Graph):
    """The answers of a network of layers, nothing hidden, as a graph: layers in, tasks out.

    Args:
        system: the network, a vision/phg-mae.
    """

    def __init__(self, system: Any) -> None:
        super().__init__()
        self.system, self.names, self.outputs = system, system.tokenizer.inputs, system.tokenizer.tasks

    def example(self, n: int, seed: int) -> tuple[Tensor, ...]:
        batch = self.system.example(n, seed)
        return tuple(batch[name] for name in self.names)

    def forward(self, *layers: Tensor) -> tuple[Tensor, ...]:
        answers = self.system.answer(dict(zip(self.names, layers, strict=True)))
        return tuple(answers[name] for name in self.outputs)


def save_tasks(system: Any, facts: Mapping[str, Any], out: Path) -> None:
    """Write a network with its head, without a teacher: ``model.onnx``, and ``tasks.json`` of what it takes.

    Raises:
        UserError: the data has no tasks.
    """
    if not system.tokenizer.tasks:
        raise UserError("this network has no tasks to answer: export its encoder, --format safetensors")
    about = write_graph(Tasks(copy.deepcopy(system).cpu().eval()), out, type(system.encoder).__name__)
    known = {name: facts[name] for name in ("scales", "range") if name in facts}
    save_json({**about, "class_layers": sorted(system.tokenizer.class_layers), **known}, out / "tasks.json")
