"""A tokenizer of single pixels and a data set of gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polymask import MaskView, System, Tokens
from polymask.report import views


class Pixels:
    """Each pixel of a grey picture is a token."""

    key = "image"

    def __init__(self, *, size=(6, 8), patch_size=1):
        self.size = size
        self.provides = {"in_dim": 1, "grid": tuple(size)}

    def __call__(self, batch):
        image = batch["image"]
        rows, columns = (torch.arange(n, dtype=torch.float32) for n in self.size)
        position = torch.cartesian_prod(rows, columns).expand(len(image), -1, -1)
        return Tokens(image.flatten(1)[..., None], position, tuple(self.size))


class Gradients:
    """Brighter from left to right."""

    key = "image"
    provides = {"size": (6, 8), "channels": 1}
    classes = None
    skipped: list = []

    def __init__(self, n=20):
        self.samples = [{"image": torch.linspace(0, 1, 8).expand(1, 6, 8) * (i + 1) / n} for i in range(n)]

    def split(self, name, *, augment=False):
        return self.samples

    def labels(self, name):
        return None

    def to_image(self, x):
        return x


class Looker(System):
    """Draws masks and does nothing else."""

    def __init__(self, masking, tokenizer=None):
        super().__init__()
        self.tokenizer = tokenizer or Pixels()
        self.weight = nn.Parameter(torch.zeros(()))
        self.viewer = views.of_masking(masking, self.tokenizer)
        self.masking = masking

    def masks(self, batch, step):
        assert not self.training and not torch.is_grad_enabled()
        tokens = self.tokenizer(batch)
        return {"student": MaskView(self.draw(tokens, batch, step), tokens)}


@pytest.fixture
def pixels():
    return Pixels()


@pytest.fixture
def gradients():
    return Gradients


@pytest.fixture
def looker():
    return Looker
