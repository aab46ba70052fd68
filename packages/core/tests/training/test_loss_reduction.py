"""A step computed in pieces is the step computed at once, whatever each piece scores."""

from __future__ import annotations

import pytest
import torch

from polymask import Mask
from polymask.checkpoints import read_checkpoint
from polymask.loss_reduction import counting
from polymask.training import read_metrics

ONCE = {"steps": 6, "log_every": 1, "clip": 0.5, "warmup_steps": 0}
SIZE, TOKENS = {"batch_size": 12}, {"batch_tokens": 120}


def test_a_scope_counts_and_divides():
    mask = Mask(torch.tensor([[True, False, True], [False, False, True]]))
    loss = torch.arange(6.0).view(2, 3)
    with counting() as means:
        assert mask.mean(loss) == 7 / 3
        assert mask.invert().mean(loss) == 8 / 3
        Mask(mask.hidden[:1], visible=1).mean(loss[:1])  # the same in every piece: not counted
    assert [int(mean.count) for mean in means] == [3, 3]
    with counting(lambda number, count: count * (number + 2)):
        assert mask.mean(loss) == 7 / 6
        assert mask.mean(loss) == 7 / 9
        with counting():
            assert mask.mean(loss) == 7 / 3
        assert mask.mean(loss) == 7 / 12
    assert mask.mean(loss) == 7 / 3


def test_learned_weights_divide_by_themselves():
    weight = torch.tensor([[0.5, 0.25]], requires_grad=True)
    with counting(lambda number, count: count * 10) as means:
        assert Mask(weight).mean(torch.tensor([[1.0, 3.0]])) == 1.25 / 0.75
    assert means == []


@pytest.fixture(scope="module")
def once(toy, tmp_path_factory):
    """One piece per step, by what makes a batch and which system."""
    found = {}

    def get(by, system="Counts"):
        key = f"{system}-{next(iter(by))}"
        if key not in found:
            folder = tmp_path_factory.mktemp(key)
            toy.train(folder, system=getattr(toy, system)(), data=toy.Ragged(), **ONCE, **by)
            found[key] = folder
        return found[key]

    return get


def same(one, other):
    rows = [read_metrics(folder / "metrics.csv") for folder in (one, other)]
    assert len(rows[0]) == len(rows[1]) == 6
    for a, b in zip(*rows, strict=True):
        assert set(a) == set(b) and {"hidden", "loss", "grad_norm"} <= set(a)
        for key in set(a) & {"hidden", "visible", "size", "first", "loss", "grad_norm", "lr"}:
            assert a[key] == pytest.approx(b[key], rel=1e-4), key
    weights = [read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"] for folder in (one, other)]
    for name, value in weights[0].items():
        if "calls" not in name:
            torch.testing.assert_close(weights[1][name], value, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("accumulate", "by"), [(2, SIZE), (3, TOKENS)])
def test_parts_one_after_the_other(toy, once, tmp_path, by, accumulate):
    system = toy.Counts()
    toy.train(tmp_path, system=system, data=toy.Ragged(), accumulate=accumulate, **ONCE, **by)
    same(once(by), tmp_path)
    assert system.calls == 6 * accumulate  # what ran ahead left no trace in buffers


@pytest.mark.parametrize(("accumulate", "by"), [(2, SIZE), (3, TOKENS)])
def test_one_mean_is_computed_once(toy, once, tmp_path, by, accumulate):
    toy.OneMean.runs = 0
    toy.train(tmp_path, system=toy.OneMean(), data=toy.Ragged(), accumulate=accumulate, **ONCE, **by)
    assert toy.OneMean.runs == 6 * accumulate
    same(once(by, "OneMean"), tmp_path)


@pytest.mark.parametrize(
    ("accumulate", "strategy", "by", "counts"),
    [
        (1, "ddp", TOKENS, "Counts"),
        (2, "ddp", SIZE, "Counts"),
        (2, "fsdp", SIZE, "Counts"),
        (2, "ddp", SIZE, "OneMean"),
        (2, "fsdp", SIZE, "OneMean"),
    ],
)
@pytest.mark.slow
def test_processes(launch, once, tmp_path, by, strategy, accumulate, counts):
    assert launch(tmp_path, 2, counts=counts, accumulate=accumulate, strategy=strategy, **ONCE, **by) == [
        0,
        0,
    ]
    same(once(by, counts), tmp_path)


def test_masks_of_fixed_count_are_run_once(toy, tmp_path):
    class Fixed(toy.Toy):
        calls = 0

        def forward(self, batch, step):
            Fixed.calls += 1
            return super().forward(batch, step)

    toy.train(tmp_path, system=Fixed(drop=0.0), steps=3, accumulate=2)
    assert Fixed.calls == 6
