from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch

from polymask import UserError
from polymask.data import collate
from polymask.training.digest import digest
from polymask.training.loader import Keyed, Loader, workers_for
from polymask.training.order import Batches
from polymask.training.plan import make_plan


@pytest.fixture
def plan(toy):
    return make_plan(toy.options(steps=5), 50)


def read(toy, plan, workers, start=0):
    dataset = Keyed(toy.Data().split("train", augment=True), seed=0)
    return list(Loader(dataset, Batches(plan, start=start), workers))


def test_batches_do_not_depend_on_workers_or_start(toy, plan):
    here = read(toy, plan, 0)
    there = read(toy, plan, 2)
    later = read(toy, plan, 2, start=3)
    assert [b["id"].tolist() for b in here] == [[s for _, s in keys] for keys in Batches(plan)]
    assert here[0]["id"].dtype == torch.int64
    for one, two in zip(here, there, strict=True):
        assert torch.equal(one["id"], two["id"])
        assert torch.equal(one["x"], two["x"])
    for one, two in zip(here[3:], later, strict=True):
        assert torch.equal(one["x"], two["x"])


def test_too_few_open_files_for_workers_are_told(toy, plan):
    def cut_off():
        yield {}
        raise RuntimeError("Too many open files. Communication with the workers is no longer possible.")

    loader = Loader(Keyed(toy.Data().split("train"), seed=0), Batches(plan))
    batches = cut_off()
    assert loader._next(batches) == [{}]
    with pytest.raises(UserError, match="more files are open .* give fewer --workers, or more by ulimit"):
        loader._next(batches)


class Strange:
    """A data set of which one sample is another than those before, or is not there."""

    classes, random = None, False

    def __init__(self, samples, length):
        self.samples, self.length = samples, length

    def split(self, name, *, augment=False):
        return self

    def labels(self, name):
        return None

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.samples[index]


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ([None], "sample 9 is NoneType, not a dict of tensors by name"),
        (["words"], "sample 9 is str, not a dict"),
        ([{"x": torch.ones(1, 4)}], r"sample 9 is x float32 \[1, 4\], and sample 0 is x float32 \[4\]"),
        (
            [{"x": torch.ones(4), "y": torch.ones(1)}],
            "sample 9 is x float32 .*, y float32 .*, and sample 0 is",
        ),
        ([{"y": torch.ones(4)}], r"sample 9 is y float32 \[4\], and sample 0 is x float32 \[4\]"),
        ([{"x": None}], "sample 9 has NoneType as 'x'; give a tensor"),
        ([], r"sample 9 cannot be had \(IndexError: .*\), and the data set says that it has 10: let its"),
    ],
)
def test_a_later_sample_that_is_another_is_named_before_training_and_in_it(last, message):
    data = Strange([*({"x": torch.ones(4)} for _ in range(9)), *last], 10)
    with pytest.raises(UserError, match=message):
        digest(data)
    with pytest.raises(UserError, match=message):
        collate(Keyed(data, seed=0).__getitems__([(0, 0), (0, 9)]))


def test_augmentation_differs_by_epoch_sample_and_seed(toy):
    samples = toy.Data().split("train", augment=True)
    noise = {
        (seed, epoch, i): Keyed(samples, seed)[epoch, i]["x"] - samples.x[i]
        for seed in (0, 1)
        for epoch in (0, 1)
        for i in (3, 4)
    }
    values = list(noise.values())
    assert not any(torch.allclose(a, b) for k, a in enumerate(values) for b in values[:k])


def test_global_generators_are_left_alone(toy):
    dataset = Keyed(toy.Data().split("train", augment=True), seed=0)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    dataset.__getitems__([(0, 1), (0, 2)])
    assert (torch.rand(1), np.random.rand(), random.random()) == expected


def test_samples_travel_to_workers_that_are_not_forked(toy):
    dataset = Keyed(toy.Data().split("train", augment=True), seed=0)
    travelled = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(travelled[1, 3]["x"], dataset[1, 3]["x"])


def test_samples_that_draw_nothing_are_not_seeded(toy):
    class Still(toy.Split):
        random = False

        def __getitem__(self, index):
            return {"x": torch.rand(1)}  # breaks its promise

    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    assert Keyed(Still(torch.zeros(3), False), seed=0)[0, 1]["x"] == expected


def test_a_batch_can_be_read_again(toy, plan):
    plan = make_plan(toy.options(steps=5, accumulate=2), 50)
    loader = Loader(Keyed(toy.Data().split("train", augment=True), seed=0), Batches(plan))
    batches = list(loader)
    again = loader.again(3, 1)
    assert torch.equal(again["x"], batches[2 * 3 + 1]["x"])
    assert loader.waited > 0


def test_workers_by_the_speed_of_reading(toy, monkeypatch):
    clock = iter(range(1000))

    class Slow(toy.Split):
        def __getitem__(self, index):
            next(clock)  # a second per sample
            return super().__getitem__(index)

    monkeypatch.setattr("polymask.training.loader.time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(12)), raising=False)
    x = torch.zeros(20, 2)
    assert workers_for(Keyed(Slow(x, False), 0)) == 8
    assert workers_for(Keyed(Slow(x, False), 0), processes=4) == 3
    assert workers_for(Keyed(Slow(x, False), 0), processes=100) == 1
    monkeypatch.setattr("polymask.training.loader.time.perf_counter", lambda: 0.0)
    assert workers_for(Keyed(toy.Split(x, False), 0)) == 0
