"""Average precision of pixels: a closed form, what it leaves out, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymask import Batch, Step, System, UserError
from polymask_vision.evaluations.localisation import CENTRE, FLAT, Localisation, precisions


def test_precision_is_averaged_over_recall() -> None:
    maps = torch.tensor([[[0.9, 0.8], [0.7, 0.1]]])
    labels = torch.tensor([[[1, 0], [2, 0]]])  # objects are first and third
    assert precisions(maps, labels) == [pytest.approx((1 + 2 / 3) / 2)]
    assert precisions(maps * 0, labels) == [0.5]  # ties are one threshold: the share of objects
    unknown = torch.tensor([[[1, -1], [2, 0]]])
    assert precisions(maps, unknown) == [1.0]


def test_images_without_objects_or_without_ground_do_not_count() -> None:
    labels = torch.stack([torch.zeros(4, 4), torch.ones(4, 4), -torch.ones(4, 4), torch.eye(4)]).long()
    assert len(precisions(torch.rand(4, 4, 4), labels)) == 1


def test_coarse_maps_are_interpolated() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :4] = 1
    assert precisions(torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]), labels) == [1.0]
    assert precisions(torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]), labels)[0] < 0.5
    with pytest.raises(UserError, match="none of images"):
        precisions(torch.rand(1, 5), labels)


class Discs:
    """Bright squares anywhere on a dark ground."""

    key = "image"

    def __init__(self, entry: str = "label_map") -> None:
        self.entry = entry

    def split(self, name: str, *, augment: bool = False) -> list[dict[str, Tensor]]:
        assert name == "test"
        found = []
        for k in range(6):
            where = torch.zeros(8, 8, dtype=torch.long)
            where[k // 3 : k // 3 + 2, k % 3 : k % 3 + 2] = 1
            found.append({"image": where[None].float(), self.entry: where})
        return found


class Says(System):
    def __init__(self, knows: bool) -> None:
        super().__init__()
        self.knows, self.weight = knows, nn.Parameter(torch.ones(1))

    def explain(self, batch: Batch, step: Step) -> Tensor:
        assert set(batch) == {"image", "id"} and step.seed == 3
        assert not self.training and not torch.is_grad_enabled()
        return batch["image"][:, 0] if self.knows else 1 - batch["image"][:, 0]


def measured(data: Discs, system: System) -> dict[str, float]:
    run: Any = SimpleNamespace(system=system, data=data, untrained=lambda: Says(False))
    return {one.row: one.value for one in Localisation(seed=3, batch_size=4)(run)}


def test_a_system_that_knows_is_told_from_one_that_does_not_and_from_the_centre() -> None:
    scores = measured(Discs(), Says(True))
    assert scores["pre-trained"] == 1 and scores[FLAT] == pytest.approx(4 / 64)
    assert scores["untrained"] == pytest.approx(4 / 64)
    assert 4 / 64 < scores[CENTRE] < 0.5


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UserError, match="samples of this data have image, other alone"):
        measured(Discs("other"), Says(True))
    with pytest.raises(UserError, match="System does not say what its answers depend on"):
        measured(Discs(), System())
