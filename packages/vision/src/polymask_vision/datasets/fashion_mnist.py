"""All of Fashion-MNIST, from Debian's package or by torchvision's download."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torchvision

from polymask import UserError
from polymask.data import Split, Splits, whole
from polymask.data.cache import cache_folder
from polymask.data.debian import fetch
from polymask_vision.datasets.fashion import CLASSES, SUGGESTED
from polymask_vision.datasets.memory import Arrays

PACKAGE = "dataset-fashion-mnist"
_INSTALLED = "usr/share/datasets/fashion-mnist"
_FILES = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
_COUNTS = {"train": 6000, "test": 1000}


def fashion_mnist(*, source: str | None = None) -> Splits[Arrays]:
    """All 70,000 images of Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): grey, 28 x 28, 10 classes.

    They are looked for in the cache; then taken from Debian's package ``dataset-fashion-mnist``, installed
    or fetched with ``apt-get download`` (31 MB, no root needed); then downloaded by torchvision.

    Args:
        source: folder that holds the four original files, gzipped or not (``fashion-mnist:FOLDER``).
    """
    root = cache_folder("fashion-mnist")
    with contextlib.ExitStack() as stack:
        if source is not None:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            _gather(Path(source).expanduser(), root)
        elif not _complete(root):
            _obtain(root)
        train, test = (_read(root, name, source or root) for name in ("train", "test"))
    return Splits(train=train, test=test, classes=list(CLASSES), suggested=SUGGESTED)


def _read(root: Path, name: str, given: str | Path) -> Split[Arrays]:
    try:
        data = torchvision.datasets.FashionMNIST(str(root), train=name == "train")
        images, labels = data.data, data.targets
        if images.shape[1:] != (28, 28) or labels.bincount().tolist() != [_COUNTS[name]] * 10:
            raise ValueError(f"{len(images)} {name} images, expected {_COUNTS[name]} of each of 10 classes")
    except (AssertionError, OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"Fashion-MNIST in {given} is damaged ({error}): delete that folder and try again"
        ) from error
    return whole(Arrays(images[:, None]), labels)


def _obtain(root: Path) -> None:
    """Fill the cache.

    Raises:
        UserError: nothing worked, with each reason and what to do by hand.
    """
    installed = Path("/", _INSTALLED)
    if _missing(installed) == []:
        return _gather(installed, root)
    failures = []
    for way in (_debian, _download):
        try:
            return way(root)
        except OSError as error:
            failures.append(str(error))
    raise UserError(
        "Fashion-MNIST is not on this machine and could not be fetched:\n  "
        + "\n  ".join(failures)
        + f"\nGet its four files ({_FILES[0]}.gz, ...) where there is a network and give their folder: "
        "fashion-mnist:FOLDER. The data set 'fashion' is a built-in part of it."
    )


def _debian(root: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fetch(folder, PACKAGE)
        _gather(Path(folder, _INSTALLED), root)


def _download(root: Path) -> None:
    try:
        with _patience(30):
            torchvision.datasets.FashionMNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise OSError(f"torchvision could not download it: {error}") from error


def _gather(folder: Path, root: Path) -> None:
    """The four files of a folder, unpacked, where torchvision reads them.

    Raises:
        UserError: some are missing.
    """
    missing = _missing(folder)
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)} of Fashion-MNIST, gzipped or not")
    raw = _raw(root)
    raw.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        plain, zipped = folder / name, folder / f"{name}.gz"
        part = raw / f"{name}.{os.getpid()}.part"
        with plain.open("rb") if plain.exists() else gzip.open(zipped) as source, part.open("wb") as out:
            shutil.copyfileobj(source, out)
        part.replace(raw / name)


def _missing(folder: Path) -> list[str]:
    return [n for n in _FILES if not ((folder / n).exists() or (folder / f"{n}.gz").exists())]


def _complete(root: Path) -> bool:
    return all((_raw(root) / name).exists() for name in _FILES)


def _raw(root: Path) -> Path:
    return root / "FashionMNIST" / "raw"


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Connections that say nothing for so long fail; by default they hang."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
