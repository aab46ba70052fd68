"""Runs a function in several processes that gloo joins; tests load this file by its path."""

from __future__ import annotations

import multiprocessing
import os
import runpy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def run(file: str | Path, function: str, folder: Path) -> list[Any]:
    """What ``function()`` of the Python file returns in each of two processes, by rank."""
    processes = 2
    context = multiprocessing.get_context("forkserver")  # see conftest.py
    started = []
    for rank in range(processes):
        given = {"GIVEN": (str(file), function, folder, rank, processes)}
        process = context.Process(target=runpy.run_path, args=(__file__, given, "__main__"))
        process.start()
        started.append(process)
    for process in started:
        process.join(120)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    assert codes == [0] * processes
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


def _main(file: str, function: str, folder: Path, rank: int, processes: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=processes)
    torch.save(runpy.run_path(file)[function](), folder / f"{rank}.pt")
    dist.barrier()  # who leaves first resets connections that others may still read from
    os._exit(0)  # without destructors, as polymask.testing.processes


if __name__ == "__main__":
    _main(*GIVEN)  # type: ignore[name-defined]  # noqa: F821  given by the process that started this one
