"""The blocks of a system: the layers that repeat, by which large runs are handled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks_of(system: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a system by name, each once, in the order of its modules.

    A block is an entry of a ``ModuleList``, or of a ``Sequential`` of several, whose entries are of one
    class; has modules with parameters inside; and holds no such list itself: of stages of layers, the layers.
    Which project wrote it does not matter, nor whether it trains.
    """
    found = set(_names(system))
    return {name: module for name, module in system.named_modules() if name in found}


def _names(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Names of the blocks within a module."""
    children = list(module.children())
    listed = isinstance(module, nn.ModuleList) or (isinstance(module, nn.Sequential) and len(children) > 1)
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


@contextlib.contextmanager
def recomputing(system: nn.Module) -> Iterator[None]:
    """Within, blocks that train keep what they are given alone, and run once more for their backward."""
    blocks = [block for block in blocks_of(system).values() if "forward" not in vars(block)]
    for block in blocks:
        # a method, so that a copy of the block runs its own weights
        vars(block)["forward"] = MethodType(_run_again, block)
    try:
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)


def _run_again(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = MethodType(type(block).forward, block)
    if not block.training or not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    contexts = contextlib.nullcontext(), buffers_kept(block)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=lambda: contexts, **kwargs)


@contextlib.contextmanager
def buffers_kept(block: nn.Module) -> Iterator[None]:
    """Within, what is done to buffers is taken back: a batch norm would count its batch twice."""
    before = [(buffer, buffer.clone()) for buffer in block.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
