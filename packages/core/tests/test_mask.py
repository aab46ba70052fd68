"""Applying and accounting for masks: nothing hidden leaks, nothing is counted twice."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Mask, Request, Step, Tokens, UserError, functional
from polymask.maskings import Random

NAN = float("nan")


def drawn(rows: int = 5, sites: int = 12, ratio: float = 0.75) -> Mask:
    return Random(ratio=ratio)(Request(torch.arange(rows), sites, Step(1, 10, 2)))


def tokens(values: Tensor, valid: Tensor | None = None) -> Tokens:
    b, n = values.shape[:2]
    position = torch.arange(float(n)).view(1, n, 1).expand(b, n, 1)
    ids = torch.arange(b * n).view(b, n)
    return Tokens(values, position, grid=(n,), ids=ids, valid=valid, prefix=values[:, :1])


RAGGED = Mask(
    torch.tensor([[1, 0, 0, 1, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0]]).bool(),
    valid=torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]]).bool(),
)
"""Visible: 4, 2 and 2 sites."""


# ---------------------------------------------------------------- keep, restore


def test_keep_takes_the_visible_sites_in_their_order() -> None:
    mask, x = drawn(), torch.randn(5, 12, 3)
    kept = mask.keep(x)
    assert kept.shape == (5, 3, 3)
    assert torch.equal(kept, torch.stack([row[~hidden] for row, hidden in zip(x, mask.hidden, strict=True)]))


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_keep_of_both_halves_restores_everything(ratio: float) -> None:
    mask, x = drawn(ratio=ratio), torch.randn(5, 12, 3)
    back = mask.restore(mask.keep(x), x.new_full((3,), 7.0))
    assert torch.equal(back, torch.where(mask.hidden[..., None], 7.0, x))
    other = mask.invert()
    assert torch.equal(other.restore(other.keep(x), back), x)


def test_keep_of_tokens_keeps_what_belongs_to_them() -> None:
    mask, x = drawn(), tokens(torch.randn(5, 12, 3))
    kept = mask.keep(x)
    assert torch.equal(kept.values, mask.keep(x.values))
    assert torch.equal(kept.position, mask.keep(x.position))
    assert x.ids is not None and kept.ids is not None
    assert torch.equal(kept.ids, mask.keep(x.ids))
    assert kept.grid is None and kept.valid is None and kept.prefix is x.prefix


def test_gradient_passes_keep_and_restore_once() -> None:
    mask = drawn()
    x = torch.randn(5, 12, 3, requires_grad=True)
    fill = torch.zeros(3, requires_grad=True)
    mask.restore(mask.keep(x), fill).sum().backward()
    assert x.grad is not None and fill.grad is not None
    assert torch.equal(x.grad, (~mask.hidden)[..., None].float().expand(5, 12, 3))
    assert torch.equal(fill.grad, torch.full((3,), 5.0 * 9))


def test_hidden_content_does_not_reach_what_is_kept() -> None:
    mask, x = drawn(), torch.randn(5, 12, 3)
    poisoned = torch.where(mask.hidden[..., None], NAN, x)
    assert torch.equal(mask.keep(poisoned), mask.keep(x))


def test_restore_keeps_the_dtype_of_what_was_kept() -> None:
    mask = drawn()
    back = mask.restore(torch.zeros(5, 3, 4, dtype=torch.bfloat16), torch.ones(4))
    assert back.dtype == torch.bfloat16 and back.sum() == 5 * 9 * 4


def test_ragged_tokens_are_padded_to_the_longest_and_restored() -> None:
    x = tokens(torch.randn(3, 6, 2), RAGGED.valid)
    kept = RAGGED.keep(x)
    assert kept.valid is not None
    assert kept.valid.tolist() == [[True] * 4, [True, True, False, False], [True, True, False, False]]
    assert torch.equal(kept.values[0], x.values[0, [1, 2, 4, 5]])
    assert torch.equal(kept.values[1, :2], x.values[1, [0, 3]])
    assert torch.equal(kept.position[2, :2], x.position[2, [0, 1]])
    back = RAGGED.restore(kept.values, torch.zeros(2))
    assert RAGGED.valid is not None
    seen = (~RAGGED.hidden & RAGGED.valid)[..., None]
    assert torch.equal(back, torch.where(seen, x.values, 0.0))


def test_keep_carries_padding_of_rows_with_equal_counts() -> None:
    valid = torch.ones(5, 12, dtype=torch.bool)
    kept = drawn().keep(tokens(torch.randn(5, 12, 2), valid))
    assert kept.valid is not None and kept.valid.shape == (5, 3) and kept.valid.all()


def test_misuse_is_told() -> None:
    soft = Mask(torch.full((3, 6), 0.5))
    x = torch.randn(3, 6, 2)
    with pytest.raises(ValueError, match="soft"):
        soft.keep(x)
    with pytest.raises(ValueError, match="soft"):
        soft.restore(x, x)
    with pytest.raises(ValueError, match="rows differ"):
        RAGGED.keep(x)
    with pytest.raises(ValueError, match="24 sites"):
        drawn().keep(torch.randn(5, 24, 3))
    with pytest.raises(ValueError, match="the loss is"):
        drawn().mean(torch.randn(5, 12, 1))


# ---------------------------------------------------------------- counts, invert


def test_counts_and_their_inverse() -> None:
    mask = drawn()
    assert (mask.sites, mask.visible, mask.count) == (12, 3, 9)
    other = mask.invert()
    assert (other.visible, other.count) == (9, 3)
    assert torch.equal(other.hidden, ~mask.hidden)
    assert torch.equal(other.invert().hidden, mask.hidden)


def test_padding_is_neither_hidden_nor_visible() -> None:
    other = RAGGED.invert()
    assert RAGGED.valid is not None
    assert not (other.hidden & ~RAGGED.valid).any()
    assert torch.equal(other.hidden | RAGGED.hidden, RAGGED.valid)
    assert other.count is None and other.visible is None
    # rows of equal visible count may still be padded, so the other half has no common count
    assert Mask(RAGGED.hidden[1:], 2, RAGGED.valid[1:]).invert().visible is None


@pytest.mark.parametrize("visible", [1, 2, 3])
def test_a_wrong_count_is_refused_before_samples_are_mixed(visible: int) -> None:
    rows = torch.tensor([[True, True, True, False], [True, False, False, False]])
    with pytest.raises(ValueError, match=rf"visible={visible}, but rows have \[1, 3\] visible sites"):
        Mask(rows, visible)
    assert Mask(rows[1:], 3).visible == 3
    with pytest.raises(ValueError, match=r"rows have \[2\]"):
        Mask(rows[1:], 3, torch.tensor([[True, True, True, False]]))


def test_inverse_of_a_soft_mask() -> None:
    mask = Mask(torch.tensor([[0.25, 1.0, 0.5]]), valid=torch.tensor([[True, True, False]]))
    assert mask.invert().hidden.tolist() == [[0.75, 0.0, 0.0]]


# ---------------------------------------------------------------- fill


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_fill_selects_and_keeps_the_dtype(dtype: torch.dtype) -> None:
    mask, x = drawn(), torch.randn(5, 12, 3).to(dtype)
    poisoned = torch.where(mask.hidden[..., None], NAN, x)
    filled = mask.fill(poisoned, torch.full((3,), 2.0))
    assert filled.dtype == dtype
    assert torch.equal(filled, torch.where(mask.hidden[..., None], 2.0, x).to(dtype))


def test_nan_under_a_mask_stays_out_of_the_gradient() -> None:
    mask = drawn()
    x = torch.where(mask.hidden[..., None], NAN, 1.0).expand(5, 12, 3).clone().requires_grad_()
    mask.fill(x, torch.zeros(3)).square().sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(mask.hidden[..., None], 0.0, 2.0).expand(5, 12, 3))


def test_fill_of_a_soft_mask_blends_and_passes_gradient_to_it() -> None:
    soft = torch.tensor([[0.0, 0.25, 1.0]], requires_grad=True)
    x = torch.tensor([[[4.0], [4.0], [4.0]]]).bfloat16()
    filled = Mask(soft).fill(x, torch.tensor([8.0]))
    assert filled.dtype == torch.bfloat16 and filled.flatten().tolist() == [4, 5, 8]
    filled.float().sum().backward()
    assert soft.grad is not None and soft.grad.tolist() == [[4, 4, 4]]


def test_sites_may_fill_several_axes() -> None:
    hidden = torch.zeros(2, 3, 4, dtype=torch.bool)
    hidden[:, 0] = True
    mask = Mask(hidden, 8)
    assert mask.sites == 12 and mask.count == 4
    assert torch.equal(mask.fill(torch.ones(2, 3, 4), torch.zeros(())), (~hidden).float())
    assert torch.equal(mask.fill(torch.ones(2, 3, 4, 5), torch.zeros(5)).sum(-1), 5.0 * ~hidden)
    assert float(mask.mean(torch.arange(24.0).view(2, 3, 4))) == (0 + 1 + 2 + 3 + 12 + 13 + 14 + 15) / 8


# ---------------------------------------------------------------- mean


def test_mean_is_over_hidden_sites_alone_and_visible_ones_get_no_gradient() -> None:
    mask = drawn()
    loss = torch.randn(5, 12, requires_grad=True)
    mean = mask.mean(loss)
    assert math.isclose(mean.item(), loss[mask.hidden].mean().item(), rel_tol=1e-6)
    mean.backward()
    assert loss.grad is not None
    assert torch.equal(loss.grad, mask.hidden.float() / 45)


def test_mean_ignores_nan_at_visible_sites_forward_and_backward() -> None:
    mask = drawn()
    loss = torch.where(mask.hidden, 3.0, NAN).requires_grad_()
    mean = mask.mean(loss)
    mean.backward()
    assert mean == 3
    assert loss.grad is not None and loss.grad.isfinite().all()


def test_mean_of_rows_that_differ_in_count_weighs_sites_not_rows() -> None:
    loss = torch.tensor([[6.0] * 6, [3.0] * 6, [0.0] * 6])
    assert math.isclose(float(RAGGED.mean(loss)), (2 * 6 + 2 * 3 + 3 * 0) / 7, rel_tol=1e-6)


def test_mean_of_nothing_is_zero_with_finite_gradient() -> None:
    mask = Mask(torch.zeros(2, 3, dtype=torch.bool), 3)
    loss = torch.full((2, 3), NAN, requires_grad=True)
    mean = mask.mean(loss)
    assert mean == 0
    mean.backward()
    assert loss.grad is not None and torch.equal(loss.grad, torch.zeros(2, 3))


def test_mean_of_a_soft_mask_is_weighted() -> None:
    mean = Mask(torch.tensor([[0.5, 1.0, 0.0]])).mean(torch.tensor([[2.0, 5.0, 100.0]]))
    assert float(mean) == (0.5 * 2 + 5) / 1.5


def test_gradient_reaches_every_weight_of_a_soft_mask_those_at_zero_too() -> None:
    soft = torch.tensor([[0.5, 1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = torch.tensor([[2.0, 5.0, 100.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, x: Mask(s).mean(x), (soft, loss))
    Mask(soft).mean(loss).backward()
    assert soft.grad is not None
    torch.testing.assert_close(soft.grad[0, 2], torch.tensor(100 / 1.5 - 6 / 1.5**2, dtype=torch.float64))


def test_mean_is_computed_in_float32_or_more() -> None:
    mask = Mask(torch.ones(1, 4096, dtype=torch.bool), 0)
    loss = torch.full((1, 4096), 1.0 + 2.0**-7).bfloat16()
    assert mask.mean(loss).dtype == torch.float32 and mask.mean(loss) == 1 + 2.0**-7
    assert mask.mean(loss.double()).dtype == torch.float64


# ---------------------------------------------------------------- compile


@pytest.mark.compile
def test_everything_compiles_in_one_graph_where_counts_are_fixed() -> None:
    def use(hidden: Tensor, x: Tensor, token: Tensor) -> tuple[Tensor, ...]:
        mask = Mask(hidden, 3)
        kept = mask.keep(x)
        return (
            kept,
            mask.restore(kept, token),
            mask.fill(x, token),
            mask.mean(x[..., 0]),
            mask.invert().keep(x),
        )

    mask, x, token = drawn(), torch.randn(5, 12, 3), torch.randn(3)
    compiled = torch.compile(use, fullgraph=True, backend="eager")
    for got, want in zip(compiled(mask.hidden, x, token), use(mask.hidden, x, token), strict=True):
        assert torch.equal(got, want)


# ------------------------------------------------------------------------- joined masks


def test_joined_masks_keep_of_each_sample_what_each_of_them_keeps() -> None:
    x = torch.randn(5, 12, 3, requires_grad=True)
    masks = [Random(ratio=0.75)(Request(torch.arange(5), 12, Step(1), stream=view)) for view in range(3)]
    joined = Mask.join(masks)
    assert joined.visible == 3 and joined.hidden.shape == (15, 12)
    kept = joined.keep(x)
    assert torch.equal(kept, torch.cat([mask.keep(x) for mask in masks]))
    kept.sum().backward()
    assert x.grad is not None
    seen = torch.stack([~mask.hidden for mask in masks]).sum(0)
    assert torch.equal(x.grad, seen[..., None].expand_as(x).float())
    copies = x.detach().repeat(3, 1, 1)
    torch.testing.assert_close(joined.restore(kept, torch.zeros(1)), joined.fill(copies, torch.zeros(1)))


def test_joined_masks_of_rows_of_other_counts_are_padded_to_the_longest() -> None:
    x, other = (
        tokens(torch.randn(3, 6, 2), RAGGED.valid),
        Mask(RAGGED.hidden.flip(0) & RAGGED.valid, None, RAGGED.valid),
    )
    kept = Mask.join([RAGGED, other]).keep(x)
    assert kept.valid is not None and kept.ids is not None
    for part, mask in ((slice(0, 3), RAGGED), (slice(3, 6), other)):
        for row, (seen, real) in enumerate(zip(kept.values[part], kept.valid[part], strict=True)):
            assert torch.equal(seen[real], x.values[row][~mask.hidden[row] & RAGGED.valid[row]])
    fixed = Mask.join([drawn(ratio=0.75), drawn(ratio=0.5)])
    assert fixed.visible is None and fixed.keep(tokens(torch.randn(5, 12, 2))).shape == (10, 6)


def test_a_mask_of_other_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="3 samples in .*, the mask has 5 rows"):
        drawn().keep(torch.randn(3, 12, 2))


def wrong(found: Any) -> Any:
    class Stripes:
        def __call__(self, request: Request) -> Any:
            return found

    return Stripes()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "Stripes returned NoneType, not a polymask.Mask: have it return Mask"),
        (torch.ones(2, 4, dtype=torch.bool), "Stripes returned Tensor, not a polymask.Mask"),
        (Mask(torch.ones(2, 3, dtype=torch.bool)), r"Stripes drew a mask of shape \[2, 3\] over .* \[2, 4\]"),
    ],
)
def test_a_masking_that_draws_something_else_is_named(found: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        functional.draw_mask(wrong(found), tokens(torch.zeros(2, 4, 1)), {"id": torch.arange(2)}, Step())


@pytest.mark.parametrize("hidden", [torch.tensor([[0, 1]]), torch.ones(1, 2).numpy(), [[True]]])
def test_what_is_neither_bool_nor_float_is_no_mask(hidden: Any) -> None:
    with pytest.raises(ValueError, match=r"Mask.hidden is a tensor of bool, or of float of a soft mask; got"):
        Mask(hidden)
