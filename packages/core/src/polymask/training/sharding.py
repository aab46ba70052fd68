"""FSDP: weights, gradients and optimiser state shared out among processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from polymask.checkpoints import CHECKPOINT
from polymask.run import Run
from polymask.systems.base import System
from polymask.training.units import blocks_of, buffers_kept


class Sharded(ModelParallelStrategy):
    """Lightning's FSDP2, on any device, all processes along the data; checkpoints are whole files."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def shard(system: System, mesh: DeviceMesh, whole: Collection[str]) -> None:
    """Share out each block of a system, gathered while it runs, and what is left as one more unit.

    Args:
        system: to be shared out, in place.
        mesh: of the processes, with an axis ``data_parallel``.
        whole: blocks that belong to what is left, as :func:`reached_into` finds them.
    """
    along = mesh["data_parallel"]
    for name, block in blocks_of(system).items():
        if name not in whole:
            fully_shard(block, mesh=along)
    fully_shard(system, mesh=along)
    register_fsdp_forward_method(system, "encode")


@contextmanager
def copied(run: Run) -> Iterator[System]:
    """A copy of a run's system, to be shared out, since that cannot be undone in place.

    Within, the weights of the system take no memory; behind it they are those of the last checkpoint, or nan
    where there is none.
    """
    copy = deepcopy(run.system)
    storages = {id(s): s for s in (p.untyped_storage() for p in run.system.parameters()) if s.resizable()}
    sizes = {key: storage.nbytes() for key, storage in storages.items()}
    for storage in storages.values():
        storage.resize_(0)
    try:
        yield copy
    finally:
        for key, storage in storages.items():
            storage.resize_(sizes[key])
        if (run.folder / CHECKPOINT).is_file():
            run.load()
        else:  # it failed before the first: not what the memory happens to hold
            for parameter in run.system.parameters():
                torch.nn.init.constant_(parameter, math.nan)


def reached_into(system: nn.Module, run: Callable[[], object]) -> set[str]:
    """Names of blocks whose weights are used past their ``forward``, where FSDP would not gather them.

    Args:
        system: whose blocks are watched, in evaluation mode, since in training some take note of what they
            have seen; its buffers and the global generators of the CPU stay as they are.
        run: what is done with the system, once.
    """
    watch, training = _Watch(blocks_of(system)), system.training
    system.eval()
    try:
        eager = torch.compiler.set_stance("force_eager")
        with torch.random.fork_rng(devices=[]), buffers_kept(system), watch.hooked(), watch, eager:
            run()
    finally:
        system.train(training)
    return watch.found


class _Watch(TorchFunctionMode):
    """Sees which weights tensors are made of."""

    def __init__(self, blocks: dict[str, nn.Module]) -> None:
        super().__init__()
        self.blocks, self.found = blocks, set[str]()
        self.owner: dict[int, str] = {}
        self.running: list[str] = []
        for name, block in blocks.items():
            for weight in block.parameters():
                other = self.owner.setdefault(id(weight), name)
                if other != name:  # a weight of two blocks is of neither
                    self.found |= {name, other}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Within, know which blocks run."""
        hooks = []
        for name, block in self.blocks.items():
            hooks.append(block.register_forward_pre_hook(lambda *_, name=name: self.running.append(name)))
            hooks.append(block.register_forward_hook(lambda *_: self.running.pop() and None))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(x, torch.Tensor) for x in tree_leaves(result)):  # sizes may be asked
            owners = (self.owner.get(id(x)) for x in tree_leaves((args, kwargs)))
            self.found.update(name for name in owners if name is not None and name not in self.running)
        return result
