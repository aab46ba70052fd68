"""What is said of a sample that cannot be read, and what is the machine's fault instead."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from polymask.errors import UserError

if TYPE_CHECKING:
    from polymask.data.splits import Source, Split

    S = TypeVar("S", bound=Source)

T = TypeVar("T")


class BadSample(Exception):
    """A sample that cannot be used; says why."""


_EXHAUSTED = {errno.ENOMEM, errno.EMFILE, errno.ENFILE}


def exhausted(error: BaseException) -> bool:
    """Whether an error says that the machine ran out of memory or of open files, and nothing of the data."""
    if isinstance(error, OSError):
        return error.errno in _EXHAUSTED
    # torch has no class of its own for that
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


@contextlib.contextmanager
def reading(reason: Callable[[Exception], str] = str) -> Iterator[None]:
    """Whatever fails within is a sample that cannot be used, unless the machine is exhausted.

    An error for the user, such as of a place that does not answer, stays one.

    Args:
        reason: an error in few words.

    Raises:
        BadSample: anything failed.
    """
    try:
        yield
    except (BadSample, UserError):
        raise
    except Exception as error:
        if exhausted(error):
            raise
        raise BadSample(reason(error)) from error


def read_some(split: Split[S], limit: int, read: Callable[[S, int], T]) -> tuple[list[T], dict[str, str]]:
    """Some samples of a split, evenly spaced, for :class:`polymask.data.Described`.

    Args:
        split: which samples there are.
        limit: how many are read at most.
        read: ``(source, number) -> what is wanted of it``.

    Returns:
        What could be read, and a line by name that says how many could not; none where all could.
    """
    some = split.take(limit)
    found, first = list[T](), ""
    for number in some.index.tolist():
        try:
            found.append(read(some.source, number))
        except BadSample as error:
            first = first or f"{some.source.name(number)}: {error}"
    bad = len(some) - len(found)
    return found, {"unreadable": f"{bad} of {len(some)} looked at, first {first}"} if bad else {}
