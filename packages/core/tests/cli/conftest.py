"""The toy plugin, and the command line called in this process."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from polymask import hookimpl
from polymask.cli import main
from polymask.plugins.registry import default_registry
from polymask.systems.base import Explains, Generates


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def toy():
    """The module ``toy.py``, registered as the plugin "toy"."""
    spec = importlib.util.spec_from_file_location("polymask_cli_toy", Path(__file__).with_name("toy.py"))
    module = sys.modules.get(spec.name)
    if module is None:
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    registry = default_registry()
    record = registry.add("toy", module)
    assert record.status == "ok", record.error
    yield module
    registry._drop("toy")
    registry.plugins.remove(record)
    # tests give classes of toys what these ask for, and take it away again
    for protocol in (Generates, Explains):
        protocol._abc_caches_clear()


class Bad:
    @hookimpl
    def polymask_register_maskings(self):
        raise RuntimeError("out of order")


@pytest.fixture
def broken(monkeypatch):
    """The record of a plugin that does not load."""
    registry = default_registry()
    monkeypatch.setattr(registry, "_strict", False)  # whatever POLYMASK_STRICT says
    record = registry.add("bad", Bad())
    assert record.status == "broken"
    yield record
    registry.plugins.remove(record)


def _gone():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.fixture
def unread(monkeypatch):
    """``unread("gone")`` makes a pipe without a reader of stdout, ``unread("full")`` a full disk."""

    opened = []

    def begin(what):
        writer = _gone() if what == "gone" else os.open("/dev/full", os.O_WRONLY)
        opened.append(os.fdopen(writer, "w"))
        monkeypatch.setattr(sys, "stdout", opened[0])

    yield begin
    for file in opened:
        file.close()  # raises where the verb has left something to be written at exit


@pytest.fixture
def polymask(capsys, tmp_path, monkeypatch):
    """``polymask("list", "--json")`` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> Outcome:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        capsys.readouterr()
        status = main(argv)
        torch.set_num_threads(threads)
        return Outcome(status, *capsys.readouterr())

    return call
