"""The contrast between sites in closed form."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from polymask_vision.contrast import site_contrast

CLASSES = torch.arange(4).repeat_interleave(49)[None]


def test_equal_similarities_cost_the_logarithm_of_all_others() -> None:
    assert site_contrast(torch.ones(2, 196, 8), CLASSES).item() == pytest.approx(math.log(195), abs=1e-4)


def test_perfect_clusters_cost_the_logarithm_of_their_size_and_never_less() -> None:
    apart = F.one_hot(CLASSES[0], 8).float()[None]
    assert site_contrast(apart, CLASSES, 0.01).item() == pytest.approx(math.log(48), abs=1e-4)
    x = torch.randn(2, 196, 8, generator=torch.Generator().manual_seed(0)) + 3 * apart
    told, shuffled = site_contrast(x, CLASSES), site_contrast(x, CLASSES[:, torch.randperm(196)])
    assert math.log(48) < told < math.log(195) < shuffled


def test_by_hand() -> None:
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([[0, 0, 0, 1, 2], [1, 1, 0, 0, 2]])
    losses = []
    for row, labels in zip(x, classes, strict=True):
        for i in range(5):
            others = [k for k in range(5) if k != i]
            same = [k for k in others if labels[k] == labels[i]]
            cosine = {k: F.cosine_similarity(row[i], row[k], dim=0) / 0.3 for k in others}
            total = torch.stack([*cosine.values()]).exp().sum().log()
            if same:
                losses.append(-sum(cosine[k] - total for k in same) / len(same))
    torch.testing.assert_close(site_contrast(x, classes, 0.3), torch.stack(losses).mean())


def test_gradients_are_finite_and_no_pair_costs_nothing() -> None:
    x = torch.randn(1, 4, 3, requires_grad=True)
    loss = site_contrast(x, torch.arange(4)[None])
    loss.backward()
    assert loss == 0 and x.grad is not None and not x.grad.any()
    site_contrast(x, torch.tensor([[0, 0, 1, 2]])).backward()
    assert x.grad.isfinite().all() and x.grad.any(-1).all()


def test_float32_under_autocast() -> None:
    x = torch.randn(1, 196, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = site_contrast(x, CLASSES)
    assert torch.equal(low, site_contrast(x, CLASSES))
