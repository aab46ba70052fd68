"""The toy system, a plugin with it, and processes of their own to train it in."""

from __future__ import annotations

import importlib.util
import multiprocessing
import runpy
import socket
import sys
import types
from pathlib import Path

import pytest
import torch

from polymask import Part, Registry, hookimpl

HERE = Path(__file__).parent
SMALL = {"width": 16, "steps": 30, "warmup_steps": 3, "data.n": 20, "data.size": 64}


@pytest.fixture(scope="session")
def toy():
    """The module ``toy.py``."""
    spec = importlib.util.spec_from_file_location("polymask_toy", HERE / "toy.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def registry(toy):
    """The installed plugins and one with the toy system, which has a preset, and its data."""

    class Slotted(toy.Toy):
        def __init__(self, *, masking=None, width=8):
            super().__init__(width=width, seed=int(torch.randint(1000, ())))
            self.masking = masking

    class Data(toy.Data):
        def __init__(self, *, n=50, file=None):
            super().__init__(n)
            self.text = file and Path(file).read_text()

    class Reader(toy.Toy):
        def __init__(self, *, file):
            super().__init__()
            self.text = Path(file).read_text()

    toy.Slotted, toy.Sized, toy.Reader = Slotted, Data, Reader
    plugin = types.ModuleType("plugin")
    plugin.polymask_register_systems = hookimpl(
        lambda: [
            Part(name="toy", target="polymask_toy:Slotted", summary="a toy", presets={"small": SMALL}),
            Part(name="reader", target="polymask_toy:Reader", summary="a toy with a file"),
        ],
        specname="polymask_register_systems",
    )
    plugin.polymask_register_datasets = hookimpl(
        lambda: [Part(name="sequences", target="polymask_toy:Sized", summary="numbers")],
        specname="polymask_register_datasets",
    )
    registry = Registry()
    assert registry.add("t", plugin).status == "ok"
    return registry


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def launch():
    """``launch(folder, processes, ...)`` runs ``toy.py`` as torchrun would; returns exit codes."""
    context = multiprocessing.get_context("forkserver")  # see ../conftest.py

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
