"""Nearest neighbours: held-out samples beside the training samples that an encoder takes for like them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from polymask.report.neighbours import NEAREST, QUERIES, neighbours
from polymask.tokens import Tokens


class Shades:
    """Images of one grey each; the held-out ones lie between those of training."""

    key, classes, skipped, provides = "image", ["dark", "light"], [], {}

    def __init__(self, labelled=True):
        self.labelled = labelled
        self.shades = {"train": torch.linspace(0, 1, 40), "test": torch.linspace(0.01, 0.99, 6)}

    def split(self, name, *, augment=False):
        return [{"image": shade.expand(1, 4, 4).clone()} for shade in self.shades[name]]

    def labels(self, name):
        return (self.shades[name] > 0.5).long() if self.labelled else None

    def to_image(self, x):
        return x


class Angle(torch.nn.Module):
    """The grey as an angle, so that cosines go by differences of grey."""

    def encode(self, batch):
        grey = batch["image"].mean((1, 2, 3))
        values = torch.stack([grey.cos(), grey.sin()], dim=1)[:, None]
        return Tokens(values, torch.zeros(len(grey), 1, 1))


@pytest.mark.parametrize("labelled", [True, False])
def test_rows_hold_the_training_samples_that_are_nearest(labelled):
    data = Shades(labelled)
    found = neighbours(SimpleNamespace(data=data, system=Angle()), side=8)
    assert len(found.rows) == QUERIES
    train = data.shades["train"].numpy()
    for row, shade in zip(found.rows, data.shades["test"].numpy(), strict=True):
        greys = [float(picture.mean()) for picture in row]
        nearest = sorted(train, key=lambda other: abs(other - shade))[:NEAREST]
        assert greys[0] == pytest.approx(shade, abs=1e-6)
        assert np.allclose(sorted(greys[1:]), sorted(nearest), atol=1e-6)
    assert ("36 of 36 are of its class" in found.note) == labelled


def test_without_held_out_samples_there_is_nothing_to_show():
    from polymask import UserError

    class Train(Shades):
        def split(self, name, *, augment=False):
            if name == "test":
                raise UserError("none")
            return super().split(name)

    assert neighbours(SimpleNamespace(data=Train(), system=Angle()), side=8) is None
