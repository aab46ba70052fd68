"""What is said of a sample that cannot be read, and what is the machine's fault instead."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator


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

    Args:
        reason: an error in few words.

    Raises:
        BadSample: anything failed.
    """
    try:
        yield
    except BadSample:
        raise
    except Exception as error:
        if exhausted(error):
            raise
        raise BadSample(reason(error)) from error
