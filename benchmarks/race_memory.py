"""Memory of each of two processes that train one system, by strategy.

A masked autoencoder of ViT-S on digits, whose activations are small, so that what counts is weights,
gradients and the optimiser's moments: 16 bytes per weight in a single process. ``state`` is what a process
keeps of these between steps, ``step`` the most memory it has within a step over what it had before the
system was built. Linux only::

    uv run benchmarks/race_memory.py --out benchmarks/results/memory.json
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from command import command
from installed import versions
from processes import together
from torch import Tensor

from polymask import Run, RunConfig
from polymask.files import write_json
from polymask.training import fit, sharding

PROCESSES = 2
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"strategy": "ddp"},
    "ddp, recompute": {"strategy": "ddp", "recompute": True},
    "fsdp, one unit": {"strategy": "fsdp"},
    "fsdp": {"strategy": "fsdp"},
    "fsdp, recompute": {"strategy": "fsdp", "recompute": True},
}
"""By name, of which ``one unit`` is how FSDP shards without knowing of blocks."""


class Watch(pl.Callback):
    """What a process holds after its third step, and the most it had from there to the end of its fifth."""

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *args: Any) -> None:
        if trainer.global_step == 3:
            weights = list(module.system.parameters())
            moments = (x for held in module.optimiser.state.values() for x in held.values())
            self.state = _bytes([*weights, *(p.grad for p in weights), *moments])
            Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        if trainer.global_step == 5:
            self.peak = _status("VmHWM")


def _bytes(tensors: Iterable[Any]) -> int:
    """What tensors keep on this process; gradients of a unit may be parts of one storage."""
    local = (getattr(x, "to_local", lambda x=x: x)() for x in tensors if isinstance(x, Tensor))
    return sum({s.data_ptr(): s.nbytes() for s in (x.untyped_storage() for x in local)}.values())


def _status(field: str) -> int:
    """A field of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024


def _train(name: str, batch: int) -> None:
    """Be one of the processes; the first prints what it had."""
    torch.set_num_threads(1)
    if name.endswith("one unit"):
        sharding.blocks_of = lambda system: {}
    sizes = {"encoder": {"dim": 384, "depth": 12, "heads": 6}, "tokenizer": {"patch_size": 2}}
    budget = {"steps": 6, "checkpoint_every": 6, "batch_size": batch, "workers": 0}
    device = {"devices": PROCESSES, "accelerator": "cpu", "precision": "32", **STRATEGIES[name]}
    config = {"system": "vision/mae", "data": "vision/digits", **sizes, **budget, **device}
    watch = Watch()
    before = _status("VmRSS")
    run = Run.create(RunConfig.resolve(config), sys.argv[2])
    weights = sum(p.numel() for p in run.system.parameters())
    fit(run, callbacks=[watch], progress=False)
    if os.environ["RANK"] == "0":
        print(json.dumps({"weights": weights, "state": watch.state, "step": watch.peak - before}))
    torch.distributed.barrier()
    os._exit(0)


def _measure(name: str, batch: int) -> dict[str, Any]:
    # memory that is given back is the system's again at once
    at_once = {"MALLOC_MMAP_THRESHOLD_": 1 << 16, "MALLOC_TRIM_THRESHOLD_": 1 << 16}
    with tempfile.TemporaryDirectory() as folder:
        said = together([__file__, name, folder, str(batch)], PROCESSES, **at_once)
    found: dict[str, Any] = json.loads(said[0].splitlines()[-1])
    return found


def race(batch: int = 8, only: str | None = None, out: Path | None = None) -> None:
    """Measure each strategy on two processes that gloo joins.

    Args:
        batch: images per step, of both processes together.
        only: names of strategies, with semicolons between.
        out: where to write the figures as JSON.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in STRATEGIES:
        if only is None or name in only.split(";"):
            found = _measure(name, batch)
            rows[name] = {
                "state_mib": found["state"] / 2**20,
                "step_mib": found["step"] / 2**20,
                "bytes_per_weight": found["state"] / found["weights"],
            }
            print(name, rows[name], flush=True)
    if out is not None:
        setup: dict[str, Any] = {"processes": PROCESSES, "threads": 1, "batch": batch, "precision": "float32"}
        setup["versions"] = versions("polymask", "torch", "lightning")
        write_json(out, {"setup": setup, "results": rows})


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in STRATEGIES:
        _train(sys.argv[1], int(sys.argv[3]))
    else:
        command(race)
