from __future__ import annotations

import math
import warnings

import pytest

from polymask import UserError
from polymask.training import TrainOptions
from polymask.training.plan import make_plan


def test_learning_rate_in_closed_form():
    plan = make_plan(
        TrainOptions(steps=110, warmup_steps=10, base_lr=1e-3, batch_size=512, min_lr=1e-4), 5000
    )
    assert plan.peak == pytest.approx(2e-3)  # linear in the batch, per 256
    assert [plan.lr(s) for s in (0, 4, 9)] == pytest.approx([2e-4, 1e-3, 2e-3])
    for step in (10, 35, 60, 109):
        cosine = (1 + math.cos(math.pi * (step - 10) / 100)) / 2
        assert plan.lr(step) == pytest.approx(1e-4 + (2e-3 - 1e-4) * cosine)
    assert plan.lr(10) == pytest.approx(plan.lr(9))  # no jump where the warm-up ends
    assert plan.lr(60) == pytest.approx((2e-3 + 1e-4) / 2)
    assert plan.lr(110) == pytest.approx(1e-4)


def test_constant_schedule_and_absolute_rate():
    plan = make_plan(
        TrainOptions(steps=20, warmup_steps=0, lr=0.3, batch_size=512, schedule="constant"), 5000
    )
    assert {plan.lr(step) for step in range(20)} == {0.3}


def test_epochs_become_steps():
    plan = make_plan(TrainOptions(epochs=2.5, warmup_epochs=0.5, batch_size=100), 1000)
    assert (plan.total, plan.warmup) == (25, 5)
    assert make_plan(TrainOptions(batch_size=100), 1000).total == 1000  # 100 epochs by default
    assert make_plan(TrainOptions(epochs=0.001, batch_size=100), 1000).total == 1


def test_batch_larger_than_the_data_shrinks_with_a_warning():
    options = TrainOptions(batch_size=256, accumulate=2, base_lr=1.0)
    with pytest.warns(UserWarning, match="256 is more than the 50 samples .* batches of 48"):
        plan = make_plan(options, 50, world=4)
    assert plan.batch_size == 48
    assert plan.peak == pytest.approx(48 / 256)  # the rate follows the batch
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_plan(options, 256, world=4).batch_size == 256


@pytest.mark.parametrize(
    ("options", "samples", "world", "said"),
    [
        ({"batch_size": 10}, 100, 4, "--batch_size 8"),
        ({"batch_size": 64}, 0, 1, "empty"),
        ({"batch_size": 64, "accumulate": 32}, 10, 1, "too few"),
        ({"steps": 10, "warmup_steps": 11}, 1000, 1, "longer than the whole run"),
        ({"base_lr": 1e-3, "batch_size": 128, "min_lr": 6e-4}, 1000, 1, "min_lr 0.0006 is above .* 0.0005"),
    ],
)
def test_exception(options, samples, world, said):
    with pytest.raises(UserError, match=said):
        make_plan(TrainOptions(**options), samples, world)


@pytest.mark.parametrize(("steps", "every"), [(5, 1), (200, 10), (100_000, 1000)])
def test_checkpoints_by_default(steps, every):
    assert make_plan(TrainOptions(steps=steps), 1000).checkpoint_every == every
