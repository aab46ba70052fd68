"""Samples that cannot be read are replaced, told of once, and reported by the process that asks."""

from __future__ import annotations

import pickle
import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from polymask import UserError
from polymask.portions import ReadDataset, Unreadable, numbered, whole


class Numbers:
    """Samples that say their number."""

    def __init__(self, n, broken=()):
        self.n, self.broken = n, broken

    def __len__(self):
        return self.n

    def name(self, index):
        return f"number {index}"


class Data(ReadDataset[Numbers]):
    key, what = "x", "numbers"

    def read(self, source, number, augment):
        if number in source.broken:
            raise Unreadable("on fire")
        return {"x": torch.tensor(number + 1000 * augment)}


def dataset(n, labels=None, broken=(), **options):
    source = Numbers(n, broken)
    return Data(whole(source, labels), whole(source, labels), **options)


def seen(data):
    return [int(sample["x"]) for sample in data.split("train")]


def test_a_limit_is_evenly_spaced():
    data = dataset(100, torch.arange(4).repeat_interleave(25), limit=8)
    assert data.labels("train").tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert seen(data) == [0, 12, 25, 37, 50, 62, 75, 87]
    assert len(dataset(5, limit=9).split("train")) == 5
    with pytest.raises(UserError, match="limit"):
        dataset(5, limit=0)


def test_some_places_by_number_or_bool():
    portion = whole(Numbers(6), torch.arange(6)).at(torch.tensor([5, 1, 3]))
    assert portion.index.tolist() == portion.labels.tolist() == [5, 1, 3]
    assert portion.at(torch.tensor([True, False, True])).index.tolist() == [5, 3]
    assert whole(Numbers(6)).at(torch.tensor([2])).labels is None


def test_samples_end_where_they_should():
    samples = dataset(3).split("train")
    assert [int(sample["x"]) for sample in samples] == [0, 1, 2]
    assert samples[-1] == samples[2]
    with pytest.raises(IndexError):
        samples[-4]


def test_a_split_of_none_is_refused_when_it_is_asked_for():
    nothing = whole(Numbers(3)).at(torch.zeros(3, dtype=torch.bool))
    data = Data(whole(Numbers(3)), nothing)
    with pytest.raises(UserError, match="no test numbers: give more of them, or hold out another share"):
        data.split("test")


def test_what_is_broken_is_replaced_by_the_next_of_its_class():
    data = dataset(6, torch.tensor([0, 1, 0, 1, 0, 1]), broken=(2, 5), skipped=[("a", "b")])
    with pytest.warns(UserWarning, match="stands in") as caught:
        assert seen(data) == [0, 1, 4, 3, 4, 1]
    assert [str(w.message) for w in caught] == [
        "number 2: on fire; number 4 stands in for it",
        "number 5: on fire; number 1 stands in for it",
    ]
    assert data.skipped == [("a", "b"), ("number 2", "on fire"), ("number 5", "on fire")]
    with warnings.catch_warnings():  # the second time nothing is said
        warnings.simplefilter("error")
        assert seen(data) == [0, 1, 4, 3, 4, 1]


def test_another_class_stands_in_where_a_whole_class_is_broken():
    data = dataset(4, torch.tensor([0, 1, 1, 0]), broken=(1, 2))
    with pytest.warns(UserWarning, match="stands in"):
        assert seen(data) == [0, 3, 3, 3]


def test_when_nothing_can_be_read_training_stops_with_the_reason():
    reads = []

    class Counting(Data):
        def read(self, source, number, augment):
            reads.append(number)
            return super().read(source, number, augment)

    portion = whole(Numbers(500, broken=range(500)))
    with pytest.raises(UserError, match="numbers or more in a row, or all, cannot be read: on fire"):
        Counting(portion, portion).split("train")[0]
    assert len(reads) == 101


def test_what_workers_find_broken_the_main_process_reports():
    data = dataset(6, broken=(4,))
    loader = DataLoader(data.split("train"), batch_size=2, num_workers=1, multiprocessing_context="fork")
    assert torch.cat([batch["x"] for batch in loader]).tolist() == [0, 1, 2, 3, 5, 5]
    assert data.skipped == [("number 4", "on fire")]


def test_samples_survive_pickling_and_know_whether_they_are_augmented():
    data = dataset(3)
    for augment in (False, True):
        copy = pickle.loads(pickle.dumps(data.split("train", augment=augment)))
        assert int(copy[1]["x"]) == 1 + 1000 * augment


def test_class_numbers():
    assert numbered(["b", None, "a", "c"], ["a", "b"]).tolist() == [1, -1, 0, -1]
