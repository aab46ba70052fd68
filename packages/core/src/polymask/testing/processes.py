"""A few steps of a system on two processes that share a batch, as training under DDP has it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from polymask.protocols import Batch
from polymask.step import Step
from polymask.systems.base import System
from polymask.testing.loop import STEPS, total
from polymask.testing.subject import rows

PROCESSES = 2
FILE = "system.pt"


def buffers_after(system: System, batch: Batch, model: nn.Module | None = None) -> dict[str, Tensor]:
    """The buffers after two steps that leave the parameters as they are, by name.

    Args:
        system: the system; dropout, which processes draw each for themselves, is switched off.
        batch: for both steps.
        model: the system as it is called, if that is not the system itself.
    """
    for module in system.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    for index in range(2):
        step = Step(index, STEPS, 0)
        system.zero_grad(set_to_none=True)
        torch.autograd.backward(total(model or system, batch, step))
        system.after_backward(step)
        system.after_step(step)
    return {name: buffer.clone() for name, buffer in system.named_buffers()}


def buffers_of_processes(system: System, batch: Batch) -> list[dict[str, Tensor]]:
    """The same on two processes, each with half of the batch: one mapping per process.

    Raises:
        pickle.PicklingError, AttributeError, TypeError: the system cannot be sent to another process.
        RuntimeError: a process failed; says its last words.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with tempfile.TemporaryDirectory() as folder:
        torch.save((system, batch), Path(folder, FILE))
        command = [sys.executable, "-m", __name__, folder]
        started = [
            subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE, text=True)
            for rank in range(PROCESSES)
        ]
        said = [process.communicate()[1] for process in started]
        for process, text in zip(started, said, strict=True):
            if process.returncode:
                raise RuntimeError(f"on {PROCESSES} processes: {text.strip().rpartition(chr(10))[2]}")
        return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(PROCESSES)]


def _main(folder: str, rank: int) -> None:
    torch.set_num_threads(1)
    system, batch = torch.load(Path(folder, FILE), weights_only=False)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    for name in system.unused:
        system.get_parameter(name).requires_grad_(False)
    share = len(batch["id"]) // PROCESSES
    own = rows(batch, slice(rank * share, (rank + 1) * share))
    model = DistributedDataParallel(system, find_unused_parameters=True)
    torch.save(buffers_after(system, own, model), Path(folder, f"{rank}.pt"))
    dist.barrier()  # who leaves first resets connections that others may still read from
    # without destructors: torch's, of DDP, may wait for a thread of gloo that waits for the interpreter
    os._exit(0)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
