from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from polymask import Registry, UserError
from polymask.config import Source, TrainOptions, resolve_part
from polymask.config.layers import TRAINING
from polymask.config.training import ALTERNATIVES, SAME_RUN


def test_import_is_light():
    code = (
        "import sys; from polymask.config.resolve import TRAINING; assert 'batch_size' in TRAINING; "
        "assert not {'torch', 'lightning', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_the_fields():
    assert TRAINING.keys() == {field.name for field in dataclasses.fields(TrainOptions)}
    assert TRAINING.keys() > SAME_RUN
    assert {name for pair in ALTERNATIVES for name in pair} < TRAINING.keys()


def test_every_option_is_explained():
    docs = TrainOptions.__doc__ or ""
    assert [name for name in sorted(TRAINING) if f"        {name}: " not in docs] == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": 0}, "steps=0: give a number 1 or more"),
        ({"steps": 5, "epochs": 2.0}, "both steps and epochs"),
        ({"warmup_steps": 5, "warmup_epochs": 2.0}, "both warmup_steps and warmup_epochs"),
        ({"batch_size": 10, "accumulate": 4}, "batch of 10 cannot be computed in 4 equal parts"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"seed": -1}, "seed=-1"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"workers": -1}, "workers=-1"),
        ({"devices": 10**20}, "devices=100000000000000000000: one machine has no more than 1024"),
        ({"devices": "2000"}, "devices=2000: one machine"),
        ({"workers": 2000}, "workers=2000: one machine"),
        ({"seed": 2**63 - 1}, "seed=9223372036854775807: give a number"),
        ({"schedule": "linear"}, "choose cosine or constant"),
    ],
)
def test_exception(wrong, said):
    with pytest.raises(UserError, match=said):
        TrainOptions(**wrong)


def test_lists_from_yaml_become_tuples():
    assert TrainOptions(betas=[0.9, 0.99]).betas == (0.9, 0.99)


@pytest.mark.parametrize(
    ("below", "above", "found"),
    [
        ({"steps": 1000, "warmup_steps": 100}, {"epochs": 3.0}, {"epochs": 3.0, "warmup_steps": 100}),
        ({"base_lr": 0.5, "clip": 5.0}, {"lr": 0.1, "clip": None}, {"lr": 0.1, "base_lr": 1e-3}),
        # a resolved configuration names both, one of them null
        ({"steps": 1000}, {"steps": None, "epochs": 3.0}, {"epochs": 3.0}),
        ({"epochs": 800.0}, {"steps": 10, "epochs": None}, {"steps": 10}),
    ],
)
def test_one_way_to_say_it_takes_back_the_other(below, above, found):
    sources = [Source(label, options) for label, options in (("file", below), ("command line", above))]
    resolved = resolve_part(None, *sources, registry=Registry(entries=[]), extra=TRAINING, name="training")
    assert TrainOptions(**resolved.require().options) == TrainOptions(**found)
