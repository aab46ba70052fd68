from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from polymask.training.options import ALTERNATIVES, SAME_RUN, TrainOptions, names, overlay

from polymask import UserError


def test_import_is_light():
    code = (
        "import sys, polymask.training.options as o; assert 'batch_size' in o.names(); "
        "assert not {'torch', 'lightning', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_the_fields():
    assert names() == {field.name for field in dataclasses.fields(TrainOptions)}
    assert names() > SAME_RUN
    assert {name for pair in ALTERNATIVES for name in pair} < names()


def test_every_option_is_explained():
    docs = TrainOptions.__doc__ or ""
    assert [name for name in sorted(names()) if f"        {name}: " not in docs] == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": 0}, "steps=0: give a number more than 0"),
        ({"steps": 5, "epochs": 2.0}, "both steps and epochs"),
        ({"warmup_steps": 5, "warmup_epochs": 2.0}, "both warmup_steps and warmup_epochs"),
        ({"batch_size": 10, "accumulate": 4}, "batch of 10 cannot be computed in 4 equal parts"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"seed": -1}, "seed=-1"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"workers": -1}, "workers=-1"),
        ({"schedule": "linear"}, "choose cosine or constant"),
    ],
)
def test_exception(wrong, said):
    with pytest.raises(UserError, match=said):
        TrainOptions(**wrong)


def test_lists_from_yaml_become_tuples():
    assert TrainOptions(betas=[0.9, 0.99]).betas == (0.9, 0.99)


def test_overlay_takes_back_the_alternative():
    preset = {"steps": 1000, "warmup_steps": 100, "base_lr": 1e-3, "clip": 5.0}
    assert overlay(preset, {"epochs": 3.0}) == {
        "epochs": 3.0,
        "warmup_steps": 100,
        "base_lr": 1e-3,
        "clip": 5.0,
    }
    assert overlay(preset, {"lr": 0.1, "clip": None})["clip"] is None
    assert "base_lr" not in overlay(preset, {"lr": 0.1})
    # a resolved configuration names both, one of them null
    assert overlay(preset, {"steps": None, "epochs": 3.0})["steps"] is None
    assert overlay({"epochs": 800}, {"steps": 10, "epochs": None}) == {"steps": 10, "epochs": None}
