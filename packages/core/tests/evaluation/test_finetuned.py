"""A fine-tuning's table says what its answers say, and its file brings back the same."""

from __future__ import annotations

import json

import pytest
import torch

from polymask.config import plain
from polymask.evaluation.finetuning import Finetuned
from polymask.evaluation.intervals import accuracy_interval, difference_interval


def found(right, seeds=(0, 1), shares=(0.01, 1.0)):
    return Finetuned(
        source="mae",
        data="digits",
        config={"steps": 10},
        shares=shares,
        seeds=seeds,
        labels=[10, 1000],
        right=right,
        chance=0.1,
        folders={start: [["a", "b"]] * len(shares) for start in right},
    )


LOW, HIGH = "1000" * 50, "1110" * 50
BOTH = {"from scratch": [[LOW, LOW], [HIGH, HIGH]], "pre-trained": [[HIGH, HIGH], [HIGH, HIGH]]}


def bits(*texts):
    return torch.tensor([[c == "1" for c in text] for text in texts])


def test_accuracies_and_differences_have_the_intervals_of_comparisons():
    one = found(BOTH)
    assert one.accuracy("from scratch", 0) == accuracy_interval(bits(LOW, LOW))
    assert one.difference(0) == difference_interval(bits(HIGH, HIGH), bits(LOW, LOW), comparisons=2)
    assert (one.verdict(0), one.verdict(1)) == ("higher", "no difference seen")
    assert one.difference(0).mean == pytest.approx(0.5) and one.test == 200


def test_the_table_has_a_row_for_each_share():
    heading, few, all_ = found(BOTH).rows()
    assert heading == ["labels", "samples", "from scratch", "pre-trained", "difference", "seen"]
    assert few[:2] == ["1 %", "10"] and few[2].startswith("0.250") and few[3].startswith("0.750")
    assert few[4].startswith("+0.500") and few[5] == "higher" and all_[1] == "1,000"


def test_one_seed_cannot_tell():
    one = found({start: [rows[:1] for rows in shares] for start, shares in BOTH.items()}, seeds=(0,))
    assert one.verdict(0) == "one seed cannot tell"


def test_without_a_run_from_scratch_there_is_no_difference():
    one = found({"pre-trained": BOTH["pre-trained"]})
    assert one.rows()[0] == ["labels", "samples", "pre-trained"] and one.difference(0) is None


def test_its_file_brings_it_back():
    one = found(BOTH)
    kept = json.loads(json.dumps(plain(one.to_json())))
    assert kept["results"][0]["difference"]["verdict"] == "higher"
    again = Finetuned.from_json(kept)
    assert again.rows() == one.rows() and again.folders == plain(one.folders)
