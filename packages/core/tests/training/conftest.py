"""The toy system, and processes of their own to train it in."""

from __future__ import annotations

import importlib.util
import multiprocessing
import runpy
import socket
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def toy():
    """The module ``toy.py``."""
    spec = importlib.util.spec_from_file_location("polymask_toy", HERE / "toy.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def launch():
    """``launch(folder, processes, ...)`` runs ``toy.py`` as torchrun would; returns exit codes."""
    # a server that has imported all that is slow to import, and forks from there
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["polymask.training.trainer", "polymask.teachers"])

    def run(folder, processes=1, *, kill=None, record=False, toy=None, timeout=120, **changed):
        port = _free_port()
        started = []
        for rank in range(processes):
            env = {}
            if processes > 1:
                env = {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(processes),
                    "LOCAL_WORLD_SIZE": str(processes),
                    "GROUP_RANK": "0",
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "TORCHELASTIC_RUN_ID": "test",
                }
                changed = {"devices": processes, **changed}
            arguments = {"folder": str(folder), "env": env, "kill": kill, "record": record}
            globals_ = {"ARGUMENTS": {**arguments, "toy": toy or {}, **changed}}
            process = context.Process(
                target=runpy.run_path, args=(str(HERE / "toy.py"), globals_, "__main__")
            )
            process.start()
            started.append(process)
        for process in started:
            process.join(timeout)
        codes = [process.exitcode for process in started]
        for process in started:
            process.kill()
        return codes

    return run


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
