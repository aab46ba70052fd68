"""Heterogeneity in closed form."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Mask
from polymask_vision.attention import add_bias
from polymask_vision.heterogeneity import heterogeneity


def masked(rows: int = 3, sites: int = 10, hidden: int = 4) -> Mask:
    order = torch.stack(
        [torch.randperm(sites, generator=torch.Generator().manual_seed(i)) for i in range(rows)]
    )
    return Mask(order < hidden, sites - hidden)


def states(rows: int = 3, sites: int = 10, dim: int = 8) -> Tensor:
    return torch.randn(rows, sites, dim, generator=torch.Generator().manual_seed(0))


def by_hand(x: Tensor, mask: Mask, temperature: float) -> float:
    """One hidden token at a time."""
    values = []
    for row, hidden in zip(x, mask.hidden, strict=True):
        seen = row[~hidden] if mask.valid is None else row[~hidden & mask.valid[len(values) % 1]]
        for token in row[hidden]:
            p = (F.cosine_similarity(token[None], seen) / temperature).softmax(0)
            values.append(float(-(p * p.log()).sum() / math.log(len(seen))))
    return sum(values) / len(values)


def test_heterogeneity_is_the_entropy_over_visible_tokens() -> None:
    x, mask = states(), masked()
    for temperature in (0.1, 0.5):
        found = heterogeneity(x, mask, temperature).item()
        assert found == pytest.approx(by_hand(x, mask, temperature), abs=1e-5)
        assert 0 < found < 1


def test_one_where_all_visible_tokens_are_alike() -> None:
    mask = masked()
    x = torch.where(mask.hidden[..., None], states(), torch.ones(8))
    assert heterogeneity(x, mask).item() == pytest.approx(1, abs=1e-5)


def test_near_zero_where_one_visible_token_is_far_ahead() -> None:
    hidden = torch.zeros(1, 6, dtype=torch.bool)
    hidden[0, 0] = True
    x = torch.zeros(1, 6, 6)
    x[0, 0, 0] = x[0, 1, 0] = 1
    for j in range(2, 6):
        x[0, j, j] = 1
    assert heterogeneity(x, Mask(hidden), 0.05).item() < 1e-5


@pytest.mark.parametrize("visible", [4, 16])
def test_two_equal_winners_give_log_two_over_log_visible(visible: int) -> None:
    n = visible + 1
    x = torch.eye(n)[None].clone()
    x[0, 0] = x[0, 1] + x[0, 2]
    hidden = torch.arange(n)[None] == 0
    found = heterogeneity(x, Mask(hidden), 1e-3).item()
    assert found == pytest.approx(math.log(2) / math.log(visible), abs=1e-5)


def test_order_and_length_of_vectors_do_not_matter() -> None:
    x, mask = states(), masked()
    once = heterogeneity(x, mask)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(heterogeneity(x[:, order], Mask(mask.hidden[:, order])), once)
    scale = torch.rand(3, 10, 1, generator=torch.Generator().manual_seed(6)) + 0.1
    torch.testing.assert_close(heterogeneity(x * scale, mask), once)


def test_gradient_reaches_hidden_sites_alone_and_is_finite() -> None:
    x, mask = states().requires_grad_(), masked()
    heterogeneity(x, mask, 1e-3).backward()
    assert x.grad is not None and x.grad.isfinite().all()
    x.grad = None
    heterogeneity(x, mask).backward()
    assert x.grad is not None
    assert not x.grad[~mask.hidden].any()
    assert x.grad[mask.hidden].any(-1).all()


def test_padding_is_neither_hidden_nor_visible() -> None:
    x, mask = states(), masked()
    wide = torch.cat([x, 100 * torch.ones(3, 5, 8)], dim=1)
    valid = torch.arange(15).expand(3, -1) < 10
    longer = Mask(F.pad(mask.hidden, (0, 5)), None, valid)
    torch.testing.assert_close(heterogeneity(wide, longer), heterogeneity(x, mask))


def test_odd_masks_give_numbers() -> None:
    x = states(1, 4).requires_grad_()
    for hidden in ([True, True, True, False], [False] * 4, [True] * 4):
        value = heterogeneity(x, Mask(torch.tensor([hidden])))
        assert value == 0 or all(hidden)
        value.backward()
        assert x.grad is not None and x.grad.isfinite().all()
    with pytest.raises(ValueError, match="mask of bool"):
        heterogeneity(x, Mask(torch.full((1, 4), 0.5)))


def test_float32_under_autocast() -> None:
    x, mask = states(), masked()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = heterogeneity(x, mask)
    assert torch.equal(low, heterogeneity(x, mask))


def test_biases_add_up() -> None:
    more = states(2, 3, 3)[:, None]
    real = torch.tensor([True, True, False])[None, None, None]
    assert add_bias(None, more) is more
    assert torch.equal(add_bias(real, more), torch.where(real, more, -torch.inf))
    assert torch.equal(add_bias(torch.ones(1, 2, 3, 3), more), (more + 1).expand(-1, 2, -1, -1))
