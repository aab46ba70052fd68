"""Whether pixels are normalised as those that a run was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polymask import UserError
from polymask.run import Run

Scales = Mapping[str, Sequence[Sequence[float]]]
"""Mean and deviation of each channel, by layer of values."""


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


def require_same_scales(run: Run, scales: Scales | None) -> None:
    """The same of layers of values: means within a tenth of the deviation, deviations within a tenth.

    Means and deviations are of some samples, and differ a little between data of one kind.

    Raises:
        UserError: it was not.
    """
    known: Scales = run.facts.get("scales") or {}
    for name, (mean, std) in (scales or {}).items():
        own_mean, own_std = known.get(name, (mean, std))
        pairs = zip(own_mean, own_std, mean, std, strict=True)
        if any(abs(a - c) > 0.1 * b or not 0.9 < d / b < 1.1 for a, b, c, d in pairs):
            raise UserError(
                f"the run {run.folder} was trained on {name} with mean {_shown(own_mean)} and deviation "
                f"{_shown(own_std)} taken out, and here it is {_shown(mean)} and {_shown(std)}: train both "
                "on the same data, with the same --data.mean and --data.std"
            )


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{x:.3g}" for x in values)
