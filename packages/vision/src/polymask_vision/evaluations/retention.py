"""What masks over weights gain on new data, and what they leave of what the base knew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polymask import Mask, UserError
from polymask.checkpoints import CHECKPOINT
from polymask.data import Dataset
from polymask.evaluation.features import batches, evaluating, on_device
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.supervision import labels_for
from polymask.types import Count

if TYPE_CHECKING:
    from polymask.run import Run

RANDOM = "masked at random"


class Retention:
    """Accuracy of a run of vision/r-amt on its own test images and on those of the data that its base knew.

    Beside the learned masks stands the base without any, which is what the run was before training, and masks
    that hide as many weights of each matrix at random. ``as the base`` is the share of images of the base's
    data that are classified as without masks, rightly or not. Intervals are over test images.

    Args:
        data: what the base knew; by default what it was trained on, if the base is the folder of a run.
        batch_size: images per batch.
        seed: of the random masks.
    """

    def __init__(self, *, data: Dataset | None = None, batch_size: Count = 100, seed: int = 0) -> None:
        self.data, self.batch_size, self.seed = data, batch_size, seed

    def __call__(self, run: Run) -> Iterator[Measurement]:
        system: Any = run.system
        if not hasattr(system, "weight_masks"):
            raise UserError(
                f"{run.name} has no masks over weights of a classifier: give a run of vision/r-amt"
            )
        before = self.data or _data_of(system.base)
        learned = system.weight_masks()
        masks = {TRAINED: learned, UNTRAINED: {}, RANDOM: shuffled(learned, self.seed)}
        with evaluating(system):
            own, _ = self._classified(system, run.data, masks)
            known, said = self._classified(system, before, masks)
        for row in masks:
            yield Measurement.share(row, "accuracy", own[row])
            yield Measurement.share(row, "accuracy on the base's data", known[row])
            same = [float(x) for x in said[row] == said[UNTRAINED]]
            yield Measurement.share(row, "as the base", same)

    def _classified(
        self, system: Any, data: Dataset, masks: Mapping[str, Mapping[str, Mask]]
    ) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
        """Whether each labelled test image is classified rightly, and as what, by row."""
        labels = labels_for(system, data, "test")
        assert labels is not None
        index = (labels >= 0).nonzero()[:, 0]
        found = {row: list[Tensor]() for row in masks}
        for batch in batches(data.split("test"), index.tolist(), batch_size=self.batch_size):
            tokens = system.tokenizer(on_device(batch, system))
            for row, some in masks.items():
                found[row].append(system.answer(tokens, some).argmax(1).cpu())
        said = {row: torch.cat(parts) for row, parts in found.items()}
        return {row: (x == labels[index]).float().tolist() for row, x in said.items()}, said


def shuffled(masks: Mapping[str, Mask], seed: int) -> dict[str, Mask]:
    """Masks that hide as many weights of each matrix at random."""
    generator = torch.Generator().manual_seed(seed)
    orders = {name: torch.randperm(mask.sites, generator=generator) for name, mask in masks.items()}
    return {name: Mask(mask.hidden[:, orders[name].to(mask.hidden.device)]) for name, mask in masks.items()}


def _data_of(base: str) -> Dataset:
    from polymask.run import Run

    if not (Path(base) / CHECKPOINT).is_file():
        raise UserError(f"which data did the base know? {base} is no run, which would tell: give --data NAME")
    return Run.open(base).data
