"""What every data set of clouds is made of: a source of clouds, its two splits, a preparation."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polymask import Tokens, UserError
from polymask.data import Samples, Split, valid_of
from polymask_pointcloud.datasets.draw import by_token, scatter
from polymask_pointcloud.datasets.portions import Portion
from polymask_pointcloud.datasets.prepare import Preparation
from polymask_pointcloud.datasets.raw import Unreadable
from polymask_pointcloud.operations import take

Skipped = list[tuple[str, str]]
_IN_A_ROW = 100
_BINS, _PAIRS = 32, 2048


class CloudDataset:
    """A data set of clouds; subclasses are constructors that find them.

    A sample is ``{"points": float32 [N, 3 + F]}``: x, y, z with z up, then features.

    Args:
        train: what to train on.
        test: what to hold out.
        preparation: how many points, of what, and where.
        classes: names of the classes, or None.
        skipped: what was left out when the clouds were found, with the reason.
        limit: at most so many clouds of each split.
    """

    key = "points"

    def __init__(
        self,
        train: Portion,
        test: Portion,
        preparation: Preparation,
        *,
        classes: Sequence[str] | None = None,
        skipped: Skipped | None = None,
        limit: int | None = None,
    ) -> None:
        self.portions: dict[Split, Portion] = {"train": train.take(limit), "test": test.take(limit)}
        self.preparation, self.classes = preparation, classes
        self._skipped = skipped or []
        self.provides: dict[str, Any] = {
            "features": preparation.width,
            "feature_names": preparation.features,
            "points": preparation.points,
            "samples": len(self.portions["train"]),
        }

    def split(self, name: Split, *, augment: bool = False) -> Samples:
        """Samples of a split; ``augment`` takes other points of each cloud each time, and moves them.

        Raises:
            UserError: it is empty.
        """
        portion = self.portions[name]
        if not len(portion):
            raise UserError(f"there are no {name} clouds: give more of them, or another share (--data.test)")
        return Clouds(portion, self.preparation, augment)

    def labels(self, name: Split) -> Tensor | None:
        return self.portions[name].labels

    def draw(
        self, sample: Mapping[str, Tensor], tokens: Tokens | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """The cloud as a picture ``[3, H, W]`` in [0, 1], points of hidden tokens in colour."""
        points = sample[self.key][:, :3]
        if tokens is None or hidden is None:
            return scatter(points)
        return scatter(points, by_token(points, tokens, hidden))

    def descriptor(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What can be said of a cloud without learning, ``[B, 38]``.

        How distances between two of its points are spread (D2, Osada et al. 2002), and its extent and
        standard deviation along each axis.
        """
        points, real = batch[self.key][..., :3].float(), valid_of(batch, self.key)
        if real is None:
            real = points.new_ones(points.shape[:2], dtype=torch.bool)
        n = real.sum(1, keepdim=True)
        generator = torch.Generator().manual_seed(0)
        pair = torch.rand(2, _PAIRS, generator=generator).to(points.device)
        one, other = (take(points, (at * n).long().clamp(max=points.shape[1] - 1)) for at in pair)
        distance = (one - other).norm(dim=-1)
        largest = distance.amax(1, keepdim=True).clamp(min=1e-12)
        place = (distance / largest * _BINS).long().clamp(max=_BINS - 1)
        share = torch.zeros(len(points), _BINS, device=points.device)
        share.scatter_add_(1, place, torch.full_like(distance, _BINS / _PAIRS))
        kept = real[..., None]
        mean = torch.where(kept, points, 0.0).sum(1, keepdim=True) / n[..., None]
        spread = (torch.where(kept, points - mean, 0.0).square().sum(1) / n).sqrt()
        high = points.masked_fill(~kept, -torch.inf).amax(1)
        low = points.masked_fill(~kept, torch.inf).amin(1)
        return torch.cat([share, high - low, spread], dim=1)

    @property
    def skipped(self) -> Skipped:
        """Files left out, ``(name, reason)``; grows when reading finds more that are broken."""
        found = [
            (portion.source.name(index), self._why(portion, index))
            for portion in self.portions.values()
            for index in portion.index[portion.unreadable].tolist()
        ]
        return self._skipped + found

    def _why(self, portion: Portion, index: int) -> str:
        try:
            self.preparation(portion.source.read(index), index)
        except Unreadable as error:
            return str(error)
        return "could not be read during training"


class Clouds:
    """Samples read and prepared one by one.

    A cloud that cannot be read is replaced by the next one of its class, always the same, with a warning the
    first time.
    """

    def __init__(self, portion: Portion, preparation: Preparation, augment: bool) -> None:
        self.portion, self.preparation, self.augment = portion, preparation, augment

    def __len__(self) -> int:
        return len(self.portion)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        source, failed, last = self.portion.source, -1, None
        for place in self._candidates(index % len(self)):
            number = int(self.portion.index[place])
            try:
                points = self.preparation(source.read(number), None if self.augment else number)
            except Unreadable as error:
                failed, last = (place, error) if last is None else (failed, last)
                continue
            if last is not None and not self.portion.unreadable[failed]:
                self.portion.unreadable[failed] = True
                name = source.name(int(self.portion.index[failed]))
                warnings.warn(f"{name}: {last}; {source.name(number)} stands in for it", stacklevel=2)
            return {"points": points}
        raise UserError(f"{_IN_A_ROW} clouds or more in a row, or all, cannot be read: {last}")

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        after = (index + torch.arange(1, len(self))) % len(self)
        if self.portion.labels is not None:
            same = self.portion.labels[after] == self.portion.labels[index]
            after = torch.cat([after[same], after[~same]])
        yield from after[:_IN_A_ROW].tolist()
