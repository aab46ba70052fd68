"""The blocks of a system: the layers that repeat, by which large runs are handled."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def blocks_of(system: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a system by name, each once, in the order of its modules.

    A block is one of two modules or more, all of one class, in a ``ModuleList`` or ``Sequential``; has modules
    with parameters inside; and holds no such list itself: of stages of layers, the layers. Which project wrote
    it does not matter, nor whether it trains.
    """
    found = set(_names(system))
    return {name: module for name, module in system.named_modules() if name in found}


def _names(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Names of the blocks within a module."""
    children = list(module.children())
    listed = isinstance(module, nn.ModuleList | nn.Sequential) and len(children) > 1
    alike = listed and len({type(child) for child in children}) == 1
    for name, child in module.named_children():
        within = list(_names(child, f"{prefix}{name}."))
        yield from within
        if alike and not within and _composed(child):
            yield f"{prefix}{name}"


def _composed(module: nn.Module) -> bool:
    """Whether it can be called and has modules with parameters inside."""
    called = not isinstance(module, nn.ModuleList | nn.ModuleDict)
    return called and any(next(child.parameters(), None) is not None for child in module.children())
