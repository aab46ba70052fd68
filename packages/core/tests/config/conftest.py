"""The toy plugin of the command line, beside core alone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from polymask import Registry, plugin

TOY = Path(__file__).parents[1] / "cli" / "toy.py"


@pytest.fixture(scope="session")
def toy():
    """The module ``toy.py``."""
    spec = importlib.util.spec_from_file_location("polymask_cli_toy", TOY)
    module = sys.modules.get(spec.name)
    if module is None:
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toys(toy):
    """A registry of core and the toy plugin."""
    registry = Registry(environ={"POLYMASK_STRICT": "1"}, entries=[])
    registry.add("core", plugin)
    registry.add("toy", toy)
    return registry
