"""What the recipe of sparsepo asks of its stages; that it trains them is tested beside the system."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from polymask_language.systems import alignment


class Asked:
    """Writes down what a recipe asks for; every run takes eight steps."""

    given = {"name": "language/sentiment", "limit": 40}
    data = SimpleNamespace(provides={"length": 40})

    def __init__(self) -> None:
        self.options: dict[str, dict[str, Any]] = {}

    def __call__(self, name: str, system: str, **options: Any) -> Any:
        self.options[name] = {"system": system, **options}
        return SimpleNamespace(folder=Path(name), step=8)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Asked:
    monkeypatch.setattr(alignment, "export", lambda run, form, out: None)
    return Asked()


def test_each_stage_goes_on_from_the_one_before_with_its_vocabulary(stage: Any) -> None:
    alignment.align(stage)
    first, second, last = stage.options.values()
    assert [x["system"] for x in (first, second, last)] == [
        *["language/meap"] * 2,
        "language/sparsepo",
    ]
    assert "encoder.pretrained" not in first and first["data"] == {**stage.given, "pack": True}
    assert second["encoder.pretrained"] == "{run}/../pre-trained/model"
    assert last["encoder.pretrained"] == "{run}/../fine-tuned/model"
    assert second["data"] == last["data"] == {**stage.given, "vocab": "{run}/../pre-trained/model"}


def test_what_is_asked_for_reaches_its_stage_and_all_else_is_left_to_presets(stage: Any) -> None:
    alignment.align(stage)
    assert [x.get("steps") for x in stage.options.values()] == [None, 2, None]
    options: dict[str, Any] = {"pretrain_steps": 3, "tune_steps": 4, "align_steps": 5}
    alignment.align(stage, corpus="language/glosses", masking="language/random-weight", **options)
    first, _, last = stage.options.values()
    assert [x.get("steps") for x in stage.options.values()] == [3, 4, 5]
    assert first["data"] == {"name": "language/glosses", "length": 40, "pack": True}
    assert last["masking"] == "language/random-weight"
