"""What tells the data of a run from other data, so that a run goes on with what it was begun with."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor

from polymask.data import Dataset, FileDataset, SplitName, evenly
from polymask.data.batches import alike
from polymask.training.loader import Keyed

READ = 32
"""Samples that are read; more would tell more and cost more."""


def digest(data: Dataset, part: SplitName = "train") -> dict[str, Any]:
    """What is known of the samples of a split without reading all of them, as plain values.

    How many there are, their classes and lengths; where they are files, names and sizes; and of a few of
    them, not augmented, the mean of what is above 0, None where reading one twice gives two samples.
    """
    samples = data.split(part)
    found: dict[str, Any] = {"samples": len(samples), "classes": list(data.classes or ())}
    for name, values in (
        ("labels", data.labels(part)),
        ("lengths", data.lengths(part) if hasattr(data, "lengths") else None),
    ):
        if values is not None:
            found[name] = _hash([values.numpy().tobytes()])
    if isinstance(data, FileDataset):
        split = data.splits[part]
        names = split.names()
        found["names"] = _hash(name.encode("utf-8", "surrogateescape") for name in names)
        sizes = getattr(split.source, "file_sizes", None)  # of shards, which may be far
        if sizes is None:
            root = getattr(split.source, "root", None)
            paths = getattr(split.source, "paths", ())
            files = [os.path.join(root, name) for name in names] if root else paths
            with ThreadPoolExecutor() as pool:
                chunks = pool.map(_sizes, [files[i : i + 256] for i in range(0, len(files), 256)])
                sizes = [size for chunk in chunks for size in chunk]
        found["sizes"] = _hash(b"%d" % size for size in sizes)
    read = Keyed(samples, seed=0)
    places = evenly(len(samples), READ)
    first = read[0, places[0]] if places else {}
    found["means"] = [_mean(read, place, first) for place in places]
    return found


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two digests, in words; means may differ by rounding, as on another machine."""
    if then["samples"] != now["samples"]:
        return [f"samples: {then['samples']} then, {now['samples']} now"]
    found = [f"{name} are not the same" for name in then if name != "means" and then[name] != now.get(name)]
    pairs = [pair for pair in zip(then["means"], now["means"], strict=True) if None not in pair]
    other = sum(not math.isclose(*pair, rel_tol=1e-3, abs_tol=1e-4) for pair in pairs)
    return found + ([f"contents: {other} of {len(pairs)} samples that were read differ"] if other else [])


def _hash(values: Iterable[bytes]) -> str:
    known = hashlib.blake2b(digest_size=8)
    for value in values:
        known.update(value + b"\0")
    return known.hexdigest()


def _sizes(paths: Sequence[str]) -> list[int]:
    return [_size(path) for path in paths]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # a sample that is no file of its own
        return -1


def _mean(read: Keyed, place: int, first: Mapping[str, Tensor]) -> float | None:
    one, two = (
        sum(float(value.double().clamp(min=0).mean()) for key, value in sample.items() if key != "id")
        for sample in (alike([first, read[0, place]])[1] for _ in range(2))
    )
    return one if math.isclose(one, two) else None
