"""Objectives score hidden sites alone, once, and in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from polymask import Mask, UserError
from polymask.objectives import L1, MSE, BinaryCrossEntropy, Cosine, CrossEntropy, Dice, SiteMean, SmoothL1

REGRESSION: dict[str, SiteMean] = {
    "mse": MSE(),
    "l1": L1(),
    "smooth-l1": SmoothL1(beta=0.5),
    "cosine": Cosine(),
}
ALL: dict[str, SiteMean] = {
    **REGRESSION,
    "binary-cross-entropy": BinaryCrossEntropy(),
    "dice": Dice(),
    "cross-entropy": CrossEntropy(),
}
HIDDEN = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 1, 0, 1]]).bool()
NAN = float("nan")

each = pytest.mark.parametrize("name", sorted(ALL))


def pair(name: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(2, 5, 4, generator=generator).to(dtype)
    if name == "cross-entropy":
        return prediction, torch.randint(4, (2, 5), generator=generator)
    return prediction, torch.randn(2, 5, 4, generator=generator).to(dtype)


def test_closed_forms() -> None:
    x, y = torch.tensor([[[0.0, 3.0]]]), torch.tensor([[[1.0, 1.0]]])
    assert MSE()(x, y) == (1 + 4) / 2
    assert L1()(x, y) == (1 + 2) / 2
    # DMJD: 0.25 d^2 up to 2, |d| - 1 beyond
    smooth = SmoothL1(beta=2.0)
    assert [float(smooth(torch.full((1, 1, 1), d), torch.zeros(1, 1, 1))) for d in (1.0, 2.0, 4.0)] == [
        0.25,
        1,
        3,
    ]
    directions = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]])
    other = torch.tensor([[[5.0, 0.0], [5.0, 0.0], [5.0, 0.0]]])
    scores = [float(Cosine()(directions[:, i : i + 1], other[:, i : i + 1])) for i in range(3)]
    assert scores == pytest.approx([0, 1, 2])
    logits, ids = torch.tensor([[[0.0, 0.0, 0.0, 0.0]]]), torch.tensor([[2]])
    assert float(CrossEntropy()(logits, ids)) == pytest.approx(torch.log(torch.tensor(4.0)).item())
    answers = torch.tensor([[[0.0, 1.0, 1.0, 0.25]]])
    logits = torch.tensor([[[0.0, 0.0, 1.0, -1.0]]])
    p = logits.sigmoid()
    entropy = -(answers * p.log() + (1 - answers) * (1 - p).log()).mean()
    assert float(BinaryCrossEntropy()(logits, answers)) == pytest.approx(float(entropy))


def test_dice_is_of_whole_objects() -> None:
    """0 at the answer, 1 beside it, the same for objects of any size, and no cell is scored by itself."""
    answer = torch.zeros(1, 1, 16)
    answer[..., :4] = 1
    sure = (answer - 0.5) * 200
    dice, cells = Dice(), BinaryCrossEntropy()
    assert float(dice(sure, answer)) == 0 and float(dice(-sure, answer)) == pytest.approx(1, abs=1e-4)
    empty = torch.zeros(1, 1, 16)
    assert float(dice(empty - 100, empty)) == 0  # nothing there, nothing said

    def scores(size: int, answers: int, said: int) -> tuple[float, float]:
        t, p = torch.zeros(1, 1, size), torch.full((1, 1, size), 0.01)
        t[..., :answers], p[..., :said] = 1, 0.9
        return float(Dice(smooth=1e-9)(p.logit(), t)), float(cells(p.logit(), t))

    small, large, wide = scores(64, 8, 4), scores(256, 32, 16), scores(512, 32, 16)
    assert small[0] == pytest.approx(large[0], rel=1e-5)
    assert wide[0] == pytest.approx(large[0], rel=0.01) and wide[1] < 0.6 * large[1]

    logits = torch.zeros(1, 1, 16)
    other = torch.zeros(1, 1, 16)
    other[..., 8:12] = 2
    found = {}
    for name, loss in (("dice", dice), ("cells", cells)):
        for k, start in enumerate((logits, logits + other)):
            x = start.clone().requires_grad_()
            loss(x, answer).backward()
            assert x.grad is not None
            found[name, k] = x.grad[0, 0, 15].item()
    assert found["dice", 0] != pytest.approx(found["dice", 1]) and found["cells", 0] == found["cells", 1]


def test_huber_of_nothing_against_unit_noise() -> None:
    """I-JEPA's scale: predicting 0 for N(0, 1) targets costs 0.425 at beta 1, not 0.5."""
    target = torch.randn(64, 64, 64, generator=torch.Generator().manual_seed(0))
    assert float(SmoothL1()(torch.zeros_like(target), target)) == pytest.approx(0.425, abs=0.002)


@each
def test_a_mask_takes_the_mean_over_hidden_sites(name: str) -> None:
    prediction, target = pair(name)
    masked = ALL[name](prediction, target, Mask(HIDDEN))
    alone = ALL[name](prediction[HIDDEN][None], target[HIDDEN][None])
    assert torch.allclose(masked, alone, rtol=1e-6)


@each
def test_each_site_costs_what_it_costs_alone(name: str) -> None:
    prediction, target = pair(name)
    losses = ALL[name].sites(prediction, target)
    alone = [
        float(ALL[name](prediction[b : b + 1, n : n + 1], target[b : b + 1, n : n + 1]))
        for b in range(2)
        for n in range(5)
    ]
    assert losses.flatten().tolist() == pytest.approx(alone, rel=1e-5)
    assert torch.equal(Mask(HIDDEN).mean(losses), ALL[name](prediction, target, Mask(HIDDEN)))


@each
def test_visible_sites_neither_count_nor_learn(name: str) -> None:
    prediction, target = pair(name)
    prediction.requires_grad_()
    loss = ALL[name](prediction, target, Mask(HIDDEN))
    loss.backward()
    assert prediction.grad is not None
    assert (prediction.grad[~HIDDEN] == 0).all()
    assert (prediction.grad[HIDDEN] != 0).any(-1).all()
    visible = ~HIDDEN if target.dim() == 2 else ~HIDDEN[..., None]
    assert loss == ALL[name](prediction, target.masked_fill(visible, 3), Mask(HIDDEN))


@each
def test_a_target_without_meaning_at_visible_sites_stays_out_of_the_gradient(name: str) -> None:
    prediction, target = pair(name)
    prediction.requires_grad_()
    if target.dim() == 2:
        target = target.masked_fill(~HIDDEN, 999)
    else:
        target = target.masked_fill(~HIDDEN[..., None], NAN)
    ALL[name](prediction, target, Mask(HIDDEN)).backward()
    assert prediction.grad is not None and prediction.grad.isfinite().all()


@each
def test_an_empty_mask_costs_nothing(name: str) -> None:
    prediction, target = pair(name)
    prediction.requires_grad_()
    loss = ALL[name](prediction, target, Mask(torch.zeros(2, 5, dtype=torch.bool)))
    loss.backward()
    assert loss == 0
    assert prediction.grad is not None and torch.equal(prediction.grad, torch.zeros_like(prediction))


@each
def test_repeating_or_permuting_the_batch_changes_nothing(name: str) -> None:
    prediction, target = pair(name)
    once = ALL[name](prediction, target, Mask(HIDDEN))
    twice = ALL[name](prediction.repeat(3, 1, 1), torch.cat([target] * 3), Mask(HIDDEN.repeat(3, 1)))
    flipped = ALL[name](prediction.flip(0), target.flip(0), Mask(HIDDEN.flip(0)))
    assert torch.allclose(once, twice, rtol=1e-6) and torch.allclose(once, flipped, rtol=1e-6)


@each
@pytest.mark.parametrize("mask", [None, Mask(HIDDEN)], ids=["all", "masked"])
def test_gradcheck(name: str, mask: Mask | None) -> None:
    prediction, target = pair(name, torch.float64)
    assert torch.autograd.gradcheck(lambda x: ALL[name](x, target, mask), prediction.requires_grad_())


@each
def test_half_precision_is_scored_in_float32(name: str) -> None:
    prediction, target = pair(name, torch.bfloat16)
    prediction.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ALL[name](prediction, target, Mask(HIDDEN))
    wide = ALL[name](
        prediction.float(), target.float() if target.is_floating_point() else target, Mask(HIDDEN)
    )
    assert loss.dtype == torch.float32 and loss == wide
    loss.backward()
    assert prediction.grad is not None and prediction.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["mse", "l1", "smooth-l1"])
def test_a_perfect_prediction_costs_nothing(name: str) -> None:
    _, target = pair(name)
    assert REGRESSION[name](target, target) == 0


@pytest.mark.parametrize("name", sorted(REGRESSION))
def test_shapes_must_agree(name: str) -> None:
    with pytest.raises(UserError, match=r"the prediction is \[2, 5, 4\], its target \[2, 5, 1\]"):
        REGRESSION[name](torch.zeros(2, 5, 4), torch.zeros(2, 5, 1))


def test_label_smoothing_spreads_the_probability() -> None:
    logits = torch.tensor([[[2.0, 0.0]]])
    log_p = logits.log_softmax(-1).flatten().tolist()
    loss = CrossEntropy(label_smoothing=0.2)(logits, torch.tensor([[0]]))
    assert float(loss) == pytest.approx(-0.9 * log_p[0] - 0.1 * log_p[1])


def test_impossible_options_are_told() -> None:
    with pytest.raises(UserError, match="core/l1"):
        SmoothL1(beta=0)
    with pytest.raises(UserError, match="label_smoothing"):
        CrossEntropy(label_smoothing=1.0)


def test_a_site_of_several_classes_costs_their_mean() -> None:
    logits, ids = torch.randn(2, 5, 3, 7), torch.randint(7, (2, 5, 3))
    each = [CrossEntropy().sites(logits[:, :, j], ids[:, :, j]) for j in range(3)]
    torch.testing.assert_close(CrossEntropy().sites(logits, ids), sum(each) / 3)
    mask = Mask(torch.tensor([[True, False, True, False, True]] * 2))
    torch.testing.assert_close(CrossEntropy()(logits, ids, mask), mask.mean(sum(each) / 3))


def test_targets_of_another_kind_are_refused_with_what_to_choose() -> None:
    logits, codes = torch.zeros(2, 5, 8), torch.zeros(2, 5, dtype=torch.int64)
    with pytest.raises(UserError, match=r"its target \[2, 5\]; codes as target take core/cross-entropy"):
        MSE()(logits, codes)
    with pytest.raises(UserError, match=r"the target is values \[2, 5, 8\]: choose a target of codes"):
        CrossEntropy()(logits, logits)
    with pytest.raises(UserError, match=r"at each of \[2, 5\] places, and the target is classes \[2, 5, 3\]"):
        CrossEntropy()(logits, codes[..., None].expand(-1, -1, 3))
