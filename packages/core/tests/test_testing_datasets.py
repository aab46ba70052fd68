"""Each check of data sets catches one that lacks the property."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Part, Registry, UserError, hookimpl
from polymask.testing import CHECKS, check_part
from polymask.testing.subject import StandIn
from polymask.types import Fact


class Samples:
    def __init__(self, x: Tensor, augment: bool) -> None:
        self.x, self.augment = x, augment

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        noise = torch.rand_like(self.x[index]) if self.augment else 0.0
        return {"x": self.x[index] + noise}


class Good:
    """Noise in two classes."""

    key = "x"
    skipped: tuple[tuple[str, str], ...] = ()
    classes: Sequence[str] | None = ("cat", "dog")

    def __init__(self) -> None:
        x = torch.randn(12, 24, 12, generator=torch.Generator().manual_seed(0))
        self.x = {"train": x[:8], "test": x[8:]}
        self.provides: dict[str, Any] = {"in_dim": 12, "grid": (4, 6)}

    def split(self, name: str, *, augment: bool = False) -> Any:
        return Samples(self.x[name], augment)

    def labels(self, name: str) -> Tensor | None:
        return torch.arange(len(self.x[name])) % 2

    def to_image(self, x: Tensor) -> Tensor:
        return x.sigmoid()


class Told(Good):
    """Tells lengths."""

    def lengths(self, name: str) -> Tensor:
        return torch.full((len(self.x[name]),), 24)


class FromFiles(Told):
    """Noise, read from files.

    Args:
        source: the folder.
    """

    def __init__(self, *, source: str) -> None:
        super().__init__()
        self.x = {
            name: torch.load(Path(source) / f"{name}.pt", weights_only=True) for name in ("train", "test")
        }


def example_source(folder: Path) -> str:
    for name in ("train", "test"):
        torch.save(torch.randn(4, 24, 12), folder / f"{name}.pt")
    return str(folder)


class FromNowhere(Good):
    def __init__(self, *, source: str | None = None) -> None:
        raise UserError(f"{source} is not installed")


class EmptySplit(Good):
    def split(self, name: str, *, augment: bool = False) -> Any:
        return [] if name == "test" else super().split(name, augment=augment)


class Changed(Samples):
    change: Any = None

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample: dict[str, Tensor] = type(self).change(super().__getitem__(index), index)
        return sample


def changed(change: Any, **attributes: Any) -> type:
    """A data set whose samples are changed by a function."""

    def split(self: Good, name: str, *, augment: bool = False) -> Any:
        return type("Samples", (Changed,), {"change": staticmethod(change)})(self.x[name], augment)

    return type("Altered", (Good,), {"split": split, **attributes})


CALLS = itertools.count()
AnotherKey = changed(lambda s, i: {"y": s["x"]})
Doubles = changed(lambda s, i: {"x": s["x"].double()})
Lists = changed(lambda s, i: {"x": s["x"].tolist()})
NaNs = changed(lambda s, i: {"x": s["x"] / 0})
Labelled = changed(lambda s, i: {**s, "label": torch.tensor(1)})
Ragged = changed(lambda s, i: {"x": s["x"][: i + 1]})
Restless = changed(lambda s, i: {"x": s["x"] + next(CALLS)})
Widened = changed(lambda s, i: {"x": s["x"].repeat(1, 2)})


class Drifting(Good):
    def __init__(self) -> None:
        super().__init__()
        drift = next(CALLS)
        self.x = {name: x + drift for name, x in self.x.items()}


class Unseeded(Good):
    def split(self, name: str, *, augment: bool = False) -> Any:
        return Samples(self.x[name] + next(CALLS) * augment, augment)


class AugmentsToDouble(Good):
    def split(self, name: str, *, augment: bool = False) -> Any:
        return Samples(self.x[name].double() if augment else self.x[name], augment)


class LosesSamples(Samples):
    def __getstate__(self) -> dict[str, Any]:
        return {"x": self.x[1:], "augment": self.augment}


class LosesAugmentation(Samples):
    def __getstate__(self) -> dict[str, Any]:
        return {"x": self.x, "augment": False}


class Shortened(Good):
    def split(self, name: str, *, augment: bool = False) -> Any:
        return LosesSamples(self.x[name], augment)


class Plain(Good):
    def split(self, name: str, *, augment: bool = False) -> Any:
        return LosesAugmentation(self.x[name], augment)


class NoClasses(Good):
    classes = None


class ShortLabels(Good):
    def labels(self, name: str) -> Tensor:
        return torch.zeros(3, dtype=torch.int64)


class FloatLabels(Good):
    def labels(self, name: str) -> Tensor:
        return torch.zeros(len(self.x[name]))


class ThirdClass(Good):
    def labels(self, name: str) -> Tensor:
        return torch.full((len(self.x[name]),), 2)


class RawPicture(Good):
    def to_image(self, x: Tensor) -> Tensor:
        return x


class OpenFile(Good):
    def split(self, name: str, *, augment: bool = False) -> Any:
        samples = super().split(name, augment=augment)
        samples.handle = lambda: None
        return samples


class WrongLengths(Good):
    """Tells lengths that are not so."""

    def lengths(self, name: str) -> Tensor:
        return torch.full((len(self.x[name]),), 23)


class Drawing(Told):
    """Draws its samples."""

    picture = None  # type: ignore[assignment]

    def render(self, sample: Any, tokens: Any = None, hidden: Any = None) -> Tensor:
        return sample["x"].sigmoid()


class Html:
    def __init__(self, html: str) -> None:
        self.html = html

    def _repr_html_(self) -> str:
        return self.html


class Presenting(Good):
    """Has more to show than a picture."""

    def media(self, sample: Any) -> dict[str, Html]:
        return {"sound": Html(f"<p>{float(sample['x'].sum()):.2f}</p>")}


class Unsteady(Good):
    def media(self, sample: Any) -> dict[str, Html]:
        return {f"sound {float(sample['x'].sum()):.2f}": Html("<p></p>")}


class NoHtml(Good):
    def media(self, sample: Any) -> dict[str, Html]:
        return {"sound": Html("")}


class OddFact(Good):
    def __init__(self) -> None:
        super().__init__()
        self.provides["scale"] = torch.tensor(2.0)


class Rescales(Good):
    """Its preparation is not the whole of it.

    Args:
        size: of something.
    """

    def __init__(self, *, size: int | None = None) -> None:
        super().__init__()
        self.provides["preparation"] = {"size": 8}
        self.x = {name: x * (2 if size is None else 1) for name, x in self.x.items()}


BAD = [
    ("check_dataset_facts_outlive_it", OddFact, "scale: facts are numbers, text"),
    ("check_dataset_facts_outlive_it", Rescales, "it gives another sample"),
    ("check_dataset_presented", Unsteady, "captions differ: ['sound "),
    ("check_dataset_presented", NoHtml, "sound: no HTML"),
    ("check_dataset_lengths", WrongLengths, "train[0] is 24 long, not 23"),
    ("check_dataset_samples", EmptySplit, "split 'test' is empty"),
    ("check_dataset_samples", AnotherKey, "train[0] holds y, not 'x'"),
    ("check_dataset_samples", Doubles, "is torch.float64"),
    ("check_dataset_samples", Lists, "holds list, not a tensor"),
    ("check_dataset_samples", NaNs, "is not finite"),
    ("check_dataset_samples", Labelled, "gives its label away"),
    ("check_dataset_shapes_agree", Ragged, "samples have shapes [(1, 12), (2, 12)"),
    ("check_dataset_labels", NoClasses, "labels without classes"),
    ("check_dataset_labels", ShortLabels, "8 samples, labels of shape [3]"),
    ("check_dataset_labels", FloatLabels, "labels are torch.float32"),
    ("check_dataset_labels", ThirdClass, "labels beyond the 2 classes"),
    ("check_dataset_is_repeatable", Restless, "a sample differs when read again"),
    ("check_dataset_is_repeatable", Drifting, "a sample differs when it is opened again"),
    ("check_dataset_is_repeatable", Unseeded, "for the same seed of torch's generator"),
    ("check_dataset_is_repeatable", AugmentsToDouble, "an augmented sample is torch.float64"),
    ("check_dataset_is_picklable", Shortened, "the copy has another length"),
    ("check_dataset_is_picklable", Plain, "the copy gives another sample"),
    ("check_dataset_picture", RawPicture, "train: a picture reaches from -"),
    ("check_dataset_is_picklable", OpenFile, "pickle"),
    ("check_dataset_facts_fit_a_tokenizer", Widened, "tokens of 24 numbers"),
]


class Strict(StandIn):
    """Refuses other widths than its own."""

    def __init__(self, *, grid: Fact[tuple[int, ...]], in_dim: Fact[int]) -> None:
        super().__init__(grid=grid, in_dim=in_dim)

    def __call__(self, batch: Any) -> Any:
        if batch["x"].shape[-1] != self.in_dim:
            raise ValueError(f"tokens of {batch['x'].shape[-1]} numbers")
        return super().__call__(batch)


@pytest.fixture
def registry() -> Registry:
    made = Registry(environ={}, entries=[])
    part = Part(name="strict", target=f"{__name__}:Strict", summary="for a test")
    hook = hookimpl(lambda: [part], specname="polymask_register_tokenizers")
    made.add("here", type("plugin", (), {"polymask_register_tokenizers": staticmethod(hook)}))
    assert made.plugins[0].error == ""
    return made


def named(cls: type, monkeypatch: pytest.MonkeyPatch) -> type:
    """The class under a name that it can be imported by."""
    monkeypatch.setitem(globals(), cls.__name__, cls)
    monkeypatch.setattr(cls, "__module__", __name__)
    return cls


@pytest.mark.parametrize(("check", "bad", "message"), BAD)
def test_a_check_catches(
    check: str, bad: type, message: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    (result,) = check_part(named(bad, monkeypatch), kind="datasets", only=[check], registry=registry)
    assert result.outcome == "failed"
    assert message in result.message


def test_every_check_is_tried() -> None:
    assert {c.name for c in CHECKS if c.kinds == ("datasets",)} == {check for check, *_ in BAD}


@pytest.mark.parametrize("good", [Told, Drawing, Presenting, FromFiles])
def test_a_good_data_set_passes(good: type, registry: Registry) -> None:
    results = check_part(good, kind="datasets", registry=registry)
    assert not [result for result in results if not result.ok]
    assert not [r for r in results if r.outcome == "skipped"]


def test_a_data_set_that_cannot_be_opened_says_why(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = ["check_dataset_samples"]
    monkeypatch.delitem(globals(), "example_source")
    result = check_part(FromNowhere, kind="datasets", only=only, registry=registry)[0]
    assert (result.outcome, "neither a source nor example_source" in result.message) == ("skipped", True)
    options = {"source": "corpus"}
    result = check_part(FromNowhere, kind="datasets", only=only, registry=registry, options=options)[0]
    assert (result.outcome, result.message) == ("skipped", "cannot be opened here: corpus is not installed")
