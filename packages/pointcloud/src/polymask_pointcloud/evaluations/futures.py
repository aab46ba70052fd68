"""How good several completions of a motion are: near what happened, different, and such as bodies move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polymask import Mask, Step, System, UserError, functional
from polymask.evaluation.features import evaluating
from polymask.evaluation.heldout_loss import batches, numbered
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.protocols import Masking
from polymask.systems.base import Generates
from polymask.systems.host import implementing
from polymask.types import Count, Positive
from polymask_pointcloud.skeleton import Skeleton, bone_lengths, moving, skating
from polymask_pointcloud.systems.humanmac import HumanMAC, hold, visible

if TYPE_CHECKING:
    from polymask.run import Run

HELD, REAL = "last pose held", "real"
ABLATED: Mapping[str, Mapping[str, Any]] = {
    "told, not completed": {"complete": False},
    "completed, not told": {"told": 0.0},
}
"""What is left of humanmac without one of its two ways to see."""


class Futures:
    """Distances of several completions of held-out motions from what happened, and from each other.

    In metres, over what is hidden, as in the papers: **ADE** is the mean over frames of the distance between
    poses (L2 over all hidden coordinates), **FDE** that of the last hidden frame, each of the best of the
    completions; **mean ADE** that of all of them; **MMADE** and **MMFDE** are averaged over all held-out
    motions whose pose was alike when last seen. **APD** is the mean distance between two completions.

    As bodies move: **bone error**, how far the length of bones is from that of the real ones on average, in
    per cent; **speed** and **acceleration** of hidden joints; **foot skate**, how fast feet slide that stand,
    where the data has the root (``--data.root true``). Beside the run stand the same untrained, the last pose
    held, and what is real.

    Args:
        masking: what is hidden; by default what the system learned with.
        futures: completions of each motion (paper: 50).
        steps: denoising steps; None for the system's own.
        alike: largest distance between poses that count as alike.
        limit: motions at most, evenly spaced; None for all.
        batch_size: motions at a time.
        seed: of the completions.
    """

    def __init__(
        self,
        *,
        masking: Masking | None = None,
        futures: Count = 10,
        steps: Count | None = None,
        alike: Positive = 0.5,
        limit: Count | None = 200,
        batch_size: Count = 50,
        seed: int = 0,
    ) -> None:
        self.masking, self.futures, self.steps, self.alike = masking, futures, steps, alike
        self.limit, self.batch_size, self.seed = limit, batch_size, seed

    def __call__(self, run: Run) -> Iterator[Measurement]:
        if implementing(run.system, Generates) is None or run.data.key != "motion":
            raise UserError(f"futures are of systems that generate motion, and {run.name} does not")
        data: Any = run.data
        asked = dict[str, Mapping[str, Any]]({TRAINED: {}})
        if isinstance(implementing(run.system, Generates), HumanMAC):
            asked |= ABLATED
        truth, hidden = self._motions(run.system, run)
        asked_NL = hidden.flatten(2).any(-1)
        if (asked_NL != asked_NL[:1]).any():
            raise UserError(
                "futures compares what is hidden frame by frame, and this masking hides other frames of each "
                "motion: use pointcloud/observed, or --tokenizer pointcloud/joints"
            )
        with evaluating(run.system):
            made = {row: self._made(run.system, run, options) for row, options in asked.items()}
        with evaluating(run.untrained()) as untrained:
            made[UNTRAINED] = self._made(untrained, run, {})
        held = hold(truth.flatten(2), ~hidden.flatten(2)).view_as(truth)
        made[HELD] = held[:, None].expand(-1, self.futures, -1, -1, -1)
        for row, x in made.items():
            for metric, values in distances(x, truth, hidden, self.alike).items():
                yield Measurement.mean(row, metric, values.tolist())
        for row, x in {**made, REAL: truth[:, None]}.items():
            for metric, values in plausible(x, truth, hidden, data.skeleton, data.rate).items():
                yield Measurement.mean(row, metric, values.tolist())

    def _motions(self, system: System, run: Run) -> tuple[Tensor, Tensor]:
        """All motions ``[n, L, J, 3]`` and what is hidden of them."""
        truth, hidden = [], []
        for batch in numbered(batches(system, run.data, self.limit, self.batch_size)):
            motion = batch["motion"]
            seen = visible(self._mask(system, batch), motion.flatten(2))
            truth.append(motion.cpu())
            hidden.append(~seen.view_as(motion).cpu())
        return torch.cat(truth), torch.cat(hidden)

    def _made(self, system: System, run: Run, options: Mapping[str, Any]) -> Tensor:
        """Completions of all motions, ``[n, futures, L, J, 3]``."""
        maker: Any = implementing(system, Generates)
        options = {**options, **({} if self.steps is None else {"steps": self.steps})}
        found = []
        for batch in numbered(batches(system, run.data, self.limit, self.batch_size)):
            mask = self._mask(system, batch)
            each = [
                maker.generate(batch, Step(0, 1, self.seed + k), mask, **options).samples["motion"].cpu()
                for k in range(self.futures)
            ]
            found.append(torch.stack(each, dim=1))
        return torch.cat(found)

    def _mask(self, system: System, batch: Any) -> Mask:
        masking = self.masking or system.masking
        mask = functional.draw_mask(masking, system.tokenizer(batch), batch, Step(0, 1, self.seed))
        return functional.require_hard_mask("futures", masking, mask)


def distances(made: Tensor, truth: Tensor, hidden: Tensor, alike: float) -> dict[str, Tensor]:
    """Scores of each motion, ``[n]`` by name.

    Args:
        made: completions ``[n, S, L, J, 3]``.
        truth: what happened, ``[n, L, J, 3]``.
        hidden: which numbers of it, bool like it; the same frames of all.
        alike: largest distance between poses, when last seen, that count as alike.
    """
    asked = hidden.flatten(2).any(-1)[0]
    frames = asked.nonzero()[:, 0]
    # what is visible is the same in all and adds nothing
    made, real = torch.where(hidden[:, None], made, 0).flatten(3), torch.where(hidden, truth, 0).flatten(2)
    made, real = made[:, :, frames], real[:, frames]
    own = (made - real[:, None]).norm(dim=-1)
    found = {"ADE": own.mean(-1).amin(1), "FDE": own[..., -1].amin(1), "mean ADE": own.mean((1, 2))}
    futures = made.shape[1]
    if futures > 1:
        pairs = torch.stack([torch.pdist(x.flatten(1)).mean() for x in made])
        found["APD"] = pairs
    if frames[0] > 0 and bool(asked[frames[0] :].all()):
        last = truth[:, frames[0] - 1].flatten(1)
        like = torch.cdist(last, last) <= alike
        scores = []
        for x, others in zip(made, like, strict=True):
            between = (x[None] - real[others][:, None]).norm(dim=-1)  # [alike, S, frames]
            scores.append((between.mean(-1).amin(1).mean(), between[..., -1].amin(1).mean()))
        found["MMADE"], found["MMFDE"] = (torch.stack(x) for x in zip(*scores, strict=True))
    return found


def plausible(
    made: Tensor, truth: Tensor, hidden: Tensor, skeleton: Skeleton, rate: float
) -> dict[str, Tensor]:
    """How bodies move in completions, of each motion ``[n]`` by name.

    Args:
        made: completions ``[n, S, L, J, 3]``.
        truth: what happened, ``[n, L, J, 3]``.
        hidden: which numbers of it, bool like it.
        skeleton: of the joints.
        rate: frames per second.
    """
    found, moved = {}, hidden.any(-1)[:, 1:, :][:, None]
    if skeleton.parents:
        usual = bone_lengths(truth, skeleton).mean(1)[:, None, None]
        off = (bone_lengths(made, skeleton) / usual - 1).abs().mean(-1)
        asked = hidden.flatten(2).any(-1)[:, None]
        found["bone error, %"] = 100 * _mean(off, asked)
    found["speed, m/s"] = _mean(moving(made, rate), moved)
    found["acceleration, m/s2"] = _mean(made.diff(n=2, dim=2).norm(dim=-1) * rate**2, moved[:, :, 1:])
    if skeleton.rooted and skeleton.feet:
        found["foot skate, m/s"] = skating(made, skeleton, rate).mean(1)
    return found


def _mean(values: Tensor, asked: Tensor) -> Tensor:
    """The mean over all but the first axis, where asked: ``[n]``."""
    asked = asked.expand_as(values)
    return torch.where(asked, values, 0).flatten(1).sum(1) / asked.flatten(1).sum(1).clamp(min=1)
