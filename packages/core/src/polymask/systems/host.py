"""Host, the base of systems that wrap another."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from polymask.protocols import Encoder
from polymask.systems.base import System

HOOKS = (
    *("draw", "encode", "example", "masks", "preview", "monitor"),
    *("after_backward", "after_step", "parameter_groups", "sample_weights", "schedule"),
)
"""The methods of a system that a host passes on. ``forward`` is its own."""


class Host(System):
    """A system that wraps another one and adds to its ``forward``.

    Every method in :data:`HOOKS` calls the one of the wrapped system, and so does every attribute that the
    host lacks (``tokenizer``, ``encoder``, ``masking``): a subclass writes what differs.

    Args:
        host: the wrapped system.
    """

    host: System
    tokenizer: Any
    encoder: Any

    def __init__(self, host: System) -> None:
        super().__init__()
        self.host = host
        self.unused = {f"host.{name}": why for name, why in host.unused.items()}
        self.least_batch, self.supervised = host.least_batch, host.supervised

    @property
    def backbone(self) -> Encoder:
        """That of the wrapped system."""
        return self.host.backbone

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "host":
                raise
            return getattr(self.host, name)


def _passed_on(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(System, name))
    def hook(self: Host, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.host, name)(*args, **kwargs)

    return hook


for _name in HOOKS:
    setattr(Host, _name, _passed_on(_name))


def implementing(system: System, protocol: type[Any]) -> Any:
    """The system itself, or the one that it hosts, if it has a capability; None if neither has.

    Args:
        system: the system. A host that has the capability itself inherits from the protocol.
        protocol: a runtime-checkable protocol.
    """
    # not by isinstance alone, which finds what falls through to the host up to Python 3.11 only
    while isinstance(system, Host) and protocol not in type(system).__mro__:
        system = system.host
    return system if isinstance(system, protocol) else None
