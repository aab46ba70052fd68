"""The blocks of a system: the layers that repeat, by which large runs are handled."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Forward = Callable[..., Any]


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
    with _changed(system, lambda forward: functools.partial(_run_again, forward)):
        yield


@contextlib.contextmanager
def compiling(system: nn.Module) -> Iterator[None]:
    """Within, blocks run compiled, those of one class and size by the same code."""
    # blocks of one class differ in size, dropped paths and whether they train, and are compiled for each
    with torch._dynamo.config.patch(recompile_limit=256), _changed(system, torch.compile):
        yield


@contextlib.contextmanager
def _changed(system: nn.Module, change: Callable[[Forward], Forward]) -> Iterator[None]:
    """Within, each block's forward is another function of the block and what it is given."""
    found = {block: block.forward for block in blocks_of(system).values()}
    methods = {block: forward for block, forward in found.items() if isinstance(forward, MethodType)}
    before = {block: vars(block).get("forward") for block in methods}
    of = functools.cache(change)
    for block, method in methods.items():
        # a method, so that a copy of the block runs its own weights
        vars(block)["forward"] = MethodType(of(method.__func__), block)
    try:
        yield
    finally:
        for block, forward in before.items():
            if forward is None:
                vars(block).pop("forward")
            else:
                vars(block)["forward"] = forward


def _run_again(forward: Forward, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if not block.training or not torch.is_grad_enabled():
        return forward(block, *args, **kwargs)
    contexts = contextlib.nullcontext(), buffers_kept(block)
    return checkpoint(forward, block, *args, use_reentrant=False, context_fn=lambda: contexts, **kwargs)


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
