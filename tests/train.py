"""Trains in a process of its own what a configuration names, for tests that kill or join processes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import runpy
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

Config = dict[str, Any]

SMALL: Config = {
    "data": {"name": "vision/digits", "limit": 50},
    "tokenizer": {"patch_size": 2},
    "encoder": {"dim": 32, "depth": 2, "heads": 2},
    "batch_size": 16,
    "lr": 0.01,
    "clip": 1.0,
    "precision": "32",
    "accelerator": "cpu",
}


@contextlib.contextmanager
def started(folder: Path, config: Config, processes: int = 1, resume: bool = False) -> Iterator[list[Any]]:
    """Processes that train together, as torchrun would start them."""
    context = multiprocessing.get_context("forkserver")  # see conftest.py
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(processes):
        env = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        env |= {"GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "t"}
        given = {"env": env if processes > 1 else {}, "folder": folder, "config": config, "resume": resume}
        process = context.Process(target=runpy.run_path, args=(__file__, {"GIVEN": given}, "__main__"))
        process.start()
        running.append(process)
    try:
        yield running
    finally:
        for process in running:
            process.kill()


def finish(folder: Path, config: Config, processes: int = 1, resume: bool = False) -> None:
    """Train to the end."""
    with started(folder, config, processes, resume) as running:
        for process in running:
            process.join(180)
        assert [process.exitcode for process in running] == [0] * processes


def _main(env: dict[str, Any], folder: Path, config: Config, resume: bool) -> None:
    import lightning.pytorch as pl

    from polymask import Run, RunConfig, Step
    from polymask.training import fit

    # a child of a fork server would have servers of its own for its workers, which outlive a kill
    multiprocessing.set_start_method("fork", force=True)
    os.environ.update({key: str(value) for key, value in env.items()})
    torch.set_num_threads(1)
    seen = []

    class Record(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            plan = module.plan
            step = Step(trainer.global_step, plan.total, plan.options.seed)
            for view in module.system.masks(batch, step).values():
                rows = view.mask.hidden.int().tolist()
                seen.extend([step.index, i, row] for i, row in zip(batch["id"].tolist(), rows, strict=True))

    run = Run.create(RunConfig.resolve(config), folder)
    fit(run, resume=resume, callbacks=[Record()], progress=False)
    (folder / f"seen-{env.get('RANK', 0)}.json").write_text(json.dumps(seen))
    if torch.distributed.is_initialized():
        # who leaves first resets connections that others may still read from
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    # each process is left with the whole system, which asks no other
    torch.save(run.system.state_dict(), folder / f"after-{env.get('RANK', 0)}.pt")
    with torch.no_grad():
        run.system.encode({"image": torch.stack([run.data.split("test")[i]["image"] for i in range(2)])})


if __name__ == "__main__":
    _main(**GIVEN)  # type: ignore[name-defined]  # noqa: F821  given by the process that started this one
