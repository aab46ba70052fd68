"""A data set of class templates in noise and a system with one linear layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polymask import System, Tokens


class Split:
    def __init__(self, images):
        self.images, self.reads = images, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.reads += 1
        return {"image": self.images[index]}


class ToyData:
    """Two channels of 4 x 4, three classes."""

    key = "image"
    provides = {"size": (4, 4), "channels": 2}
    classes = ("a", "b", "c")
    skipped: list = []

    def __init__(self, train=90, test=60, noise=0.6, labelled=True):
        generator = torch.Generator().manual_seed(0)
        templates = torch.randn(3, 2, 4, 4, generator=generator)
        self.splits, self._labels = {}, {}
        for name, n in (("train", train), ("test", test)):
            labels = torch.arange(n) % 3
            noisy = templates[labels] + noise * torch.randn(n, 2, 4, 4, generator=generator)
            self.splits[name], self._labels[name] = Split(noisy), labels
        self.labelled = labelled

    def split(self, name, *, augment=False):
        assert not augment
        return self.splits[name]

    def labels(self, name):
        return self._labels[name] if self.labelled else None

    def to_image(self, x):
        return x.clamp(-2, 2) / 4 + 0.5


class ToySystem(System):
    """Sees its samples whole; dropout shows whether it is in eval mode."""

    def __init__(self, seed=0, dim=5):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.proj = nn.Linear(2, dim)
        with torch.no_grad():
            self.proj.weight.normal_(generator=generator)
        self.dropout = nn.Dropout(0.5)

    def encode(self, batch):
        x = batch["image"].flatten(2).transpose(1, 2)
        return Tokens(self.dropout(self.proj(x).relu()), torch.zeros(len(x), 16, 2), (4, 4))


@pytest.fixture
def toy_data():
    return ToyData


@pytest.fixture
def toy_system():
    return ToySystem
