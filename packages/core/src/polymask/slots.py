"""The parts in the slots of a built system, those of systems that it hosts included."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from polymask.parts import slot_kind


def filled(system: Any, kind: str) -> Iterator[tuple[Any, str, str]]:
    """Slots of a system, and of systems that it hosts, that hold a part of a kind.

    Yields:
        Whose slot, which, and its path from the system: ``"masking"``, ``"host.masking"``.
    """
    for slot in inspect.signature(type(system)).parameters:
        part, takes = getattr(system, slot, None), slot_kind(slot)
        if part is not None and takes == kind:
            yield system, slot, slot
        elif part is not None and takes == "systems":
            for owner, inner, path in filled(part, kind):
                yield owner, inner, f"{slot}.{path}"


def substitute(system: Any, slot: str, value: Any) -> None:
    """Put anything in a slot of a built system, also what is no module where there was one."""
    # a module refuses a plain function in the place of a module
    system._modules.pop(slot, None)
    system.__dict__[slot] = value
