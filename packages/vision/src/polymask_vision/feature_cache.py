"""What a frozen network makes of images, kept on disk, so that it looks at each of them once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from polymask import files
from polymask.distributed import rank
from polymask.imports import weights_digest
from polymask_vision.networks import Network

_STORES: WeakValueDictionary[Path, _Store] = WeakValueDictionary()

LATER_VIEWS = 1000
"""Images of samples seen before, but not as they were, after which it is said that the data changes them."""


class FeatureCache:
    """Float32 rows by the content of an image: one that was augmented is another image.

    Below its folder there is one for each network and for each thing that is asked of it, so that runs may
    name the same folder, one after the other. Each process writes its own files.

    Args:
        folder: where to keep them.
        network: what looks at the images.
        given: what the network was opened with and does not keep as a weight, as plain values.
    """

    def __init__(self, folder: str | Path, network: Network, **given: Any) -> None:
        self.folder, self.network, self.given = Path(folder), network, given
        self.stores: dict[str, _Store] = {}
        self.weights: str | None = None

    def __call__(
        self,
        batch: Mapping[str, Tensor],
        key: str,
        asked: Mapping[str, Any],
        compute: Callable[[], tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:
        """What ``compute`` gives, from disk where all images of the batch have been seen.

        Args:
            batch: holds the images and the ``id`` of their samples.
            key: entry of the images.
            asked: what the values depend on beside image and weights, as plain values.
            compute: float32 ``[B, ...]`` each.

        Raises:
            UserError: the folder cannot be written, or another process writes it.
        """
        image = batch[key]
        kind = image.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        name = json.dumps({**self.given, **asked, "precision": str(precision)}, sort_keys=True)
        if name not in self.stores:
            # weights may have been loaded after the network was opened
            self.weights = self.weights or _digest(self.network)
            digest = hashlib.sha256((self.weights + name).encode()).hexdigest()[:16]
            self.stores[name] = _open(self.folder.absolute() / digest / f"process-{rank()}")
        store = self.stores[name]
        keys = content(image).tolist()
        if (found := store.read(keys)) is not None:
            return tuple(part.to(image.device) for part in found)
        computed = compute()
        store.write(keys, computed, batch["id"].tolist())
        return computed


def content(images: Tensor) -> Tensor:
    """A number for each image, int64 ``[B]``: a sum over the bits of all values, each with an odd factor.

    Two images have the same one by chance once in about 2**63 pairs.
    """
    bits = images.float().contiguous().flatten(1).view(torch.int32).long()
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (bits.shape[1],), generator=generator) * 2 + 1
    sums: Tensor = (bits * factors.to(bits.device)).sum(1)
    return sums


def cached(
    cache: FeatureCache | None,
    batch: Mapping[str, Tensor],
    key: str,
    asked: Mapping[str, Any],
    compute: Callable[[], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """What ``compute`` gives, through a cache if there is one."""
    return compute() if cache is None else cache(batch, key, asked, compute)


def _digest(network: Network) -> str:
    """Of all that a network is."""
    about = f"{network!r} {network.heads} {weights_digest(network.state_dict())}"
    return hashlib.sha256(about.encode()).hexdigest()


def _open(folder: Path) -> _Store:
    """The one store of this process there: two would lock each other out."""
    if (store := _STORES.get(folder)) is None:
        store = _STORES[folder] = _Store(folder)
    return store


class _Store:
    """Rows of one width in a file, the key and the sum of each in another: with these written, a row counts.

    A row whose sum is another than it was, as on a disk that was full or cut off, is forgotten and told once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, np.zeros((0, 0), np.float32)
        self.shapes: tuple[torch.Size, ...] = ()
        self.lock = contextlib.ExitStack()
        self.lock.enter_context(files.locked(folder))
        self.places: dict[int, tuple[int, int]] = {}
        self.ids: set[int] = set()
        self.count, self.found, self.changed = 0, 0, 0
        if (described := folder / "shapes.json").exists():
            self.shapes = files.read_json(
                described,
                lambda shapes: tuple(torch.Size(shape) for shape in shapes),
                f"delete {folder} to have it computed again",
            )
            if (folder / "keys").exists():
                known = np.fromfile(folder / "keys", np.int64)
                known = known[: len(known) // 2 * 2].reshape(-1, 2)
                self.places = {key: (i, total) for i, (key, total) in enumerate(known.tolist())}
                self.count = len(known)
            self._make_room(self.count)

    def read(self, keys: list[int]) -> tuple[Tensor, ...] | None:
        """What is kept of them, if it is all of them."""
        if not all(key in self.places for key in keys):
            return None
        places, totals = zip(*(self.places[key] for key in keys), strict=True)
        rows = torch.from_numpy(self.rows[list(places)])
        same = content(rows) == torch.tensor(totals)
        if not same.all():
            warnings.warn(f"what {self.folder} kept is damaged, and computed again", stacklevel=3)
            for i in (~same).nonzero()[:, 0].tolist():
                self.places.pop(keys[i], None)
            return None
        self.found += len(keys)
        parts = torch.split(rows, [shape.numel() for shape in self.shapes], dim=1)
        return tuple(x.view(len(keys), *shape) for x, shape in zip(parts, self.shapes, strict=True))

    def write(self, keys: list[int], parts: tuple[Tensor, ...], ids: list[int]) -> None:
        """Keep what is new of it."""
        new = {key: i for i, key in enumerate(keys) if key not in self.places}
        self._warn([ids[i] for i in new.values()])
        chosen, first = list(new.values()), self.count
        rows = torch.cat([part[chosen].detach().float().cpu().flatten(1) for part in parts], dim=1)
        totals = content(rows).tolist()
        with files.writing(self.folder):
            if not self.shapes:
                self.shapes = tuple(part.shape[1:] for part in parts)
                files.write_json(self.folder / "shapes.json", [list(shape) for shape in self.shapes])
            self._make_room(first + len(new))
            known = np.array(list(zip(new, totals, strict=True)), np.int64)
            # written and not mapped: a full disk is an error then, and not the end of the process
            self._put("rows", 4 * rows.shape[1] * first, rows.numpy().tobytes())
            self._put("keys", 16 * first, known.tobytes())
        self.places.update({key: (first + i, totals[i]) for i, key in enumerate(new)})
        self.count += len(new)

    def _put(self, name: str, place: int, content: bytes) -> None:
        path = self.folder / name
        path.touch()
        with path.open("r+b") as file:
            file.seek(place)
            file.write(content)

    def _make_room(self, count: int) -> None:
        if count <= len(self.rows):
            return
        width, path = sum(shape.numel() for shape in self.shapes), self.folder / "rows"
        path.touch()
        # a hole takes no room on the disk
        capacity = max(2 * count, path.stat().st_size // (4 * width))
        with path.open("r+b") as file:
            file.truncate(4 * width * capacity)
        self.rows = np.memmap(path, np.float32, mode="r", shape=(capacity, width))

    def _warn(self, ids: list[int]) -> None:
        before = self.changed
        self.changed += len(self.ids.intersection(ids))
        self.ids.update(ids)
        if before < LATER_VIEWS <= self.changed and self.found < self.changed:
            warnings.warn(
                f"of {self.changed} images whose sample was seen before, {self.folder} had {self.found}: the "
                "data changes them each time, so that keeping features costs more than it saves; use "
                "--data.augment none, or no cache",
                stacklevel=2,
            )
