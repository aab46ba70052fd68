"""Checks of data sets.

The module of a data set that reads a ``source`` may have a function ``example_source(folder) -> str`` that
writes a small example into an empty folder and returns what to give as the source; otherwise
give one: ``check_part(name, options={"source": ...})``. Tag ``ragged``: samples differ in shape.
"""

from __future__ import annotations

import pickle
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from polymask.config import build
from polymask.data import Renderer, facts_of, storable
from polymask.errors import UserError
from polymask.testing.subject import Subject, seeded
from polymask.testing.suite import Skip, check, require

SPLITS = ("train", "test")


@contextmanager
def opened(subject: Subject, **options: Any) -> Iterator[Any]:
    """The data set, over its own example where it has one; opened once for all checks where it has none."""
    with tempfile.TemporaryDirectory() as folder:
        if "source" in subject.parameters and "source" not in subject.options:
            example = getattr(sys.modules[subject.cls.__module__], "example_source", None)
            if example is None:
                raise Skip("reads a source, and neither a source nor example_source is given")
            options["source"] = example(Path(folder))
        try:
            data = subject.make(**options) if options else subject.made
        except UserError as error:
            raise Skip(f"cannot be opened here: {error}") from error
        yield data


@check("datasets")
def check_dataset_samples(subject: Subject) -> None:
    """Both splits hold samples: dicts of finite tensors, float32 or ids in int64 under the data set's key."""
    with opened(subject) as data:
        for split in SPLITS:
            samples = data.split(split)
            require(len(samples) > 0, f"split {split!r} is empty")
            for index in {0, len(samples) - 1}:
                sample = samples[index]
                require(data.key in sample, f"{split}[{index}] holds {', '.join(sample)}, not {data.key!r}")
                x = sample[data.key]
                require(
                    isinstance(x, torch.Tensor), f"{split}[{index}] holds {type(x).__name__}, not a tensor"
                )
                require(
                    x.dtype in (torch.float32, torch.int64),
                    f"{split}[{index}] is {x.dtype}, not float32, nor int64 as ids are",
                )
                require(x.isfinite().all(), f"{split}[{index}] is not finite")
                require("label" not in sample, f"{split}[{index}] gives its label away")


@check("datasets", unless=("ragged",))
def check_dataset_shapes_agree(subject: Subject) -> None:
    """All samples have one shape, so that they make a batch."""
    with opened(subject) as data:
        samples = [data.split(split)[i] for split in SPLITS for i in range(min(8, len(data.split(split))))]
        shapes = {tuple(sample[data.key].shape) for sample in samples}
        require(len(shapes) == 1, f"samples have shapes {sorted(shapes)}")


@check("datasets")
def check_dataset_labels(subject: Subject) -> None:
    """Labels are int64, one per sample, each the number of a class or -1; or there are none at all."""
    with opened(subject) as data:
        for split in SPLITS:
            labels = data.labels(split)
            require(
                (labels is None) == (data.classes is None), f"{split}: labels without classes or the reverse"
            )
            if labels is not None:
                n, classes = len(data.split(split)), len(data.classes)
                require(labels.shape == (n,), f"{split}: {n} samples, labels of shape {list(labels.shape)}")
                require(labels.dtype == torch.int64, f"{split}: labels are {labels.dtype}")
                within = int(labels.min()) >= -1 and int(labels.max()) < classes
                require(within, f"{split}: labels beyond the {classes} classes")


@check("datasets")
def check_dataset_is_repeatable(subject: Subject) -> None:
    """The same index gives the same sample, opened again or not; augmented, for the same seed."""
    with opened(subject) as data:
        key, plain = data.key, data.split("train")
        require(torch.equal(plain[0][key], plain[0][key]), "a sample differs when read again")
        if "source" not in subject.parameters:
            again = subject.make().split("train")
            require(torch.equal(plain[0][key], again[0][key]), "a sample differs when it is opened again")
        draws = []
        for seed in (1, 1, 2):
            with seeded(seed):
                draws.append(data.split("train", augment=True)[0][key])
        require(
            torch.equal(draws[0], draws[1]),
            "an augmented sample differs for the same seed of torch's generator",
        )
        require(draws[0].dtype == plain[0][key].dtype, f"an augmented sample is {draws[0].dtype}")


@check("datasets")
def check_dataset_picture(subject: Subject) -> None:
    """``to_image``, or ``render``, turns a sample into something in [0, 1] that can be drawn."""
    with opened(subject) as data:
        for split in SPLITS:
            sample = data.split(split)[0]
            picture = data.render(sample) if isinstance(data, Renderer) else data.to_image(sample[data.key])
            low, high = float(picture.min()), float(picture.max())
            require(
                low >= -1e-4 and high <= 1 + 1e-4, f"{split}: a picture reaches from {low:.3f} to {high:.3f}"
            )


@check("datasets")
def check_dataset_presented(subject: Subject) -> None:
    """``present``, where there is such a method, shows the same kinds of things of every sample."""
    with opened(subject) as data:
        if not hasattr(data, "media"):
            return
        samples = data.split("train")
        shown = [data.media(samples[i]) for i in (0, len(samples) - 1)]
        require(shown[0].keys() == shown[1].keys(), f"captions differ: {list(shown[0])}, {list(shown[1])}")
        for caption, thing in shown[0].items():
            require("<" in thing._repr_html_(), f"{caption}: no HTML")


@check("datasets")
def check_dataset_lengths(subject: Subject) -> None:
    """``lengths``, where there is such a method, tells the length of each sample."""
    with opened(subject) as data:
        for split in SPLITS if hasattr(data, "lengths") else ():
            samples, lengths = data.split(split), data.lengths(split)
            if lengths is None:
                shapes = {
                    samples[i][data.key].shape for i in range(0, len(samples), max(1, len(samples) // 8))
                }
                require(
                    len(shapes) == 1, f"{split}: lengths is None, and samples have shapes {sorted(shapes)}"
                )
                continue
            require(
                lengths.shape == (len(samples),) and lengths.dtype == torch.int64,
                f"{split}: lengths are {lengths.dtype} {list(lengths.shape)} of {len(samples)} samples",
            )
            for index in range(0, len(samples), max(1, len(samples) // 8)):
                found = len(samples[index][data.key])
                require(found == lengths[index], f"{split}[{index}] is {found} long, not {lengths[index]}")


@check("datasets")
def check_dataset_is_picklable(subject: Subject) -> None:
    """Samples survive pickling, as they must to reach a worker process."""
    with opened(subject) as data:
        samples = data.split("train", augment=True)
        copy = pickle.loads(pickle.dumps(samples))
        require(len(copy) == len(samples), "the copy has another length")
        with seeded(1):
            one = samples[0][data.key]
        with seeded(1):
            other = copy[0][data.key]
        require(torch.equal(one, other), "the copy gives another sample")


@check("datasets")
def check_dataset_facts_fit_a_tokenizer(subject: Subject) -> None:
    """What it ``provides`` is true: a tokenizer made by it takes its samples."""
    with opened(subject) as data:
        for part in subject.registry.parts("tokenizers"):
            cls: Any = part.load()
            if getattr(cls, "key", None) != data.key:
                continue
            tiny = {k: v for k, v in part.presets.get("tiny", {}).items() if k not in data.provides}
            try:
                tokenizer = build(
                    part.full_name, "tokenizers", registry=subject.registry, facts=data.provides
                )
            except UserError:
                tokenizer = build(
                    part.full_name, "tokenizers", registry=subject.registry, facts=data.provides, **tiny
                )
            samples = [data.split("train")[i] for i in (0, 0)]
            tokenizer({data.key: torch.stack([sample[data.key] for sample in samples])})
            return
        raise Skip(f"no tokenizer of {data.key!r} is installed")


@check("datasets")
def check_dataset_facts_outlive_it(subject: Subject) -> None:
    """A checkpoint gives back the facts that it ``provides``; with its ``preparation`` it opens the same."""
    with opened(subject) as data:
        facts = facts_of(data)
        kept = storable(facts)
        lost = [name for name in facts if kept[name] != facts[name]]
        require(not lost, f"{', '.join(lost)}: facts are numbers, text, tuples, lists and mappings of these")
        prepared = data.provides.get("preparation")
        if not prepared:
            return
        with opened(subject, **prepared) as again:
            one, other = (each.split("train")[0][data.key] for each in (data, again))
            require(torch.equal(one, other), "opened with its own preparation, it gives another sample")
