"""Samples that cannot be read are replaced, told of once, and reported by the process that asks."""

from __future__ import annotations

import hashlib
import importlib
import pickle
import shutil
import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from polymask import UserError
from polymask.data import (
    BadSample,
    FileDataset,
    Splits,
    class_names,
    class_numbers,
    divide,
    held_out,
    reading,
    whole,
)
from polymask.data.splits import Names


class Numbers:
    """Samples that say their number."""

    def __init__(self, n, broken=()):
        self.n, self.broken = n, broken

    def __len__(self):
        return self.n

    def name(self, index):
        return f"number {index}"


class Data(FileDataset[Numbers]):
    key, what = "x", "numbers"

    def read(self, source, number, augment):
        if number in source.broken:
            raise BadSample("on fire")
        return {"x": torch.tensor(number + 1000 * augment)}


def dataset(n, labels=None, broken=(), skipped=(), **options):
    source = Numbers(n, broken)
    found = Splits(train=whole(source, labels), test=whole(source, labels), skipped=list(skipped))
    return Data(found, **options)


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
    split = whole(Numbers(6), torch.arange(6)).at(torch.tensor([5, 1, 3]))
    assert split.index.tolist() == split.labels.tolist() == [5, 1, 3]
    assert split.at(torch.tensor([True, False, True])).index.tolist() == [5, 3]
    assert whole(Numbers(6)).at(torch.tensor([2])).labels is None


def test_samples_end_where_they_should():
    samples = dataset(3).split("train")
    assert [int(sample["x"]) for sample in samples] == [0, 1, 2]
    assert samples[-1] == samples[2]
    with pytest.raises(IndexError):
        samples[-4]


def test_a_split_of_none_is_refused_when_it_is_asked_for():
    nothing = whole(Numbers(3)).at(torch.zeros(3, dtype=torch.bool))
    data = Data(Splits(train=whole(Numbers(3)), test=nothing))
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


def test_a_stand_in_of_another_class_is_told_as_such():
    data = dataset(4, labels=torch.tensor([0, 0, 1, 1]), broken=(0, 1))
    with pytest.warns(UserWarning, match="number 2 stands in for it, of another class, as none of its own"):
        assert seen(data) == [2, 2, 2, 3]


@pytest.mark.parametrize("error", [MemoryError("no more"), RuntimeError("DefaultCPUAllocator: not enough")])
def test_what_fails_in_reading_is_a_bad_sample_unless_the_machine_is_exhausted(error):
    with pytest.raises(BadSample, match="odd"), reading():
        raise ValueError("odd")
    with pytest.raises(type(error)), reading():
        raise error


def test_when_nothing_can_be_read_training_stops_with_the_reason():
    reads = []

    class Counting(Data):
        def read(self, source, number, augment):
            reads.append(number)
            return super().read(source, number, augment)

    split = whole(Numbers(500, broken=range(500)))
    with pytest.raises(
        UserError, match="numbers or more in a row, or all, cannot be read; the first, number 0: on fire"
    ):
        Counting(Splits(train=split, test=split)).split("train")[0]
    assert len(reads) == 101


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_what_workers_find_broken_the_main_process_reports(start, tmp_path, monkeypatch):
    shutil.copy(__file__, tmp_path / "own_numbers.py")  # which a process that starts afresh can import
    monkeypatch.syspath_prepend(tmp_path)
    data = importlib.import_module("own_numbers").dataset(6, broken=(4,))
    loader = DataLoader(data.split("train"), batch_size=2, num_workers=1, multiprocessing_context=start)
    assert torch.cat([batch["x"] for batch in loader]).tolist() == [0, 1, 2, 3, 5, 5]
    assert data.skipped == [("number 4", "on fire")]


def test_samples_survive_pickling_and_know_whether_they_are_augmented():
    data = dataset(3)
    for augment in (False, True):
        copy = pickle.loads(pickle.dumps(data.split("train", augment=augment)))
        assert int(copy[1]["x"]) == 1 + 1000 * augment


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_every_class_gives_its_share_to_test(share):
    labels = torch.tensor([0] * 40 + [1] * 8 + [2] * 2)
    train, test = divide(whole(Numbers(50), labels), share)
    counts = test.labels.bincount(minlength=3).tolist()
    assert counts == [max(round(share * n), 1) for n in (40, 8, 2)]
    assert sorted(torch.cat([train.index, test.index]).tolist()) == list(range(50))
    for part in (train, test):
        assert torch.equal(labels[part.index], part.labels)


def test_the_samples_whose_names_hash_lowest_are_test():
    def key(i):
        digest = hashlib.blake2b(f"number {i}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big")

    _, test = divide(whole(Numbers(30)), 0.2)
    assert test.index.tolist() == sorted(sorted(range(30), key=key)[:6])


def test_more_samples_move_few_from_side_to_side():
    before, after = (set(divide(whole(Numbers(n)), 0.2)[1].index.tolist()) for n in (1000, 1010))
    assert len(before & after) > 190


@pytest.mark.parametrize("share", [1.0, -0.1, 5])
def test_impossible_shares_are_refused(share):
    with pytest.raises(UserError, match="0 <= test < 1"):
        divide(whole(Numbers(5)), share)


def test_numbers_sort_by_value_before_words():
    classes = class_names(["10", "9", "b"], ["a", "9", "-1"])
    assert classes == ["9", "10", "-1", "a", "b"]
    assert class_numbers(["a", "10", None], classes).tolist() == [3, 1, -1]


def test_names_are_kept_whatever_they_are_made_of():
    texts = ["", "a", "ünïcödé/画像.png", "broken \udce9 bytes", "end", ""]
    names = pickle.loads(pickle.dumps(Names(texts)))
    assert [names[i] for i in range(len(names))] == texts


def test_samples_of_one_key_stay_together_and_count_as_one():
    keys = [f"speaker {i // 5}" for i in range(50)]
    test = held_out(keys, None, 0.2)
    assert test.view(10, 5).any(1).equal(test.view(10, 5).all(1)) and int(test.sum()) == 10
