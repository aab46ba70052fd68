"""Whether pixels are normalised as those that a run was trained on."""

from __future__ import annotations

from collections.abc import Sequence

from polymask import UserError
from polymask.run import Run


def require_same_scale(run: Run, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """See that a run was trained on pixels of about the mean and deviation that these have.

    Args:
        run: that is to see these pixels.
        mean: per channel, what was subtracted from values in [0, 1]; None where nobody tells.
        std: per channel, what they were divided by.

    Raises:
        UserError: it was not.
    """
    own_mean, own_std = (run.facts.get(name) for name in ("mean", "std"))
    pairs = [(own_mean, mean), (own_std, std)]
    if any(own and x and max(abs(a - b) for a, b in zip(own, x, strict=False)) > 0.01 for own, x in pairs):
        raise UserError(
            f"the run {run.folder} was trained on pixels with mean {own_mean} and deviation {own_std} taken "
            f"out, and these have mean {mean} and deviation {std}: give --data.mean and --data.std "
            "of that run"
        )
