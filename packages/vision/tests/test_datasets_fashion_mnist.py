"""The whole of Fashion-MNIST comes from the cache, from a package, by download, or not at all."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torchvision

from polymask import UserError
from polymask.data import open_data
from polymask_vision.datasets import fashion_mnist

COUNTS = {"train": 6000, "t10k": 1000}


def idx(array: np.ndarray) -> bytes:  # type: ignore[type-arg]
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as the originals are, their pictures blank but for the class in one corner."""
    folder = tmp_path_factory.mktemp("originals")
    for split, n in COUNTS.items():
        labels = (np.arange(10 * n) % 10).astype(np.uint8)
        images = np.zeros((10 * n, 28, 28), dtype=np.uint8)
        images[:, 27, 0] = labels
        for name, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            (folder / f"{split}-{name}.gz").write_bytes(gzip.compress(idx(array), 1))
    return folder


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No cache, no package, no commands, no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "_INSTALLED", str(tmp_path / "nothing")[1:])
    monkeypatch.setattr(shutil, "which", lambda name: None)

    def refuse(self: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "download", refuse)
    return tmp_path


def check(spec: str = "fashion-mnist") -> None:
    data = open_data(spec, limit=50)
    for split, n in (("train", 60000), ("test", 10000)):
        labels, samples = data.labels(split), data.split(split)  # type: ignore[arg-type]
        assert labels.tolist() == [i * n // 50 % 10 for i in range(50)]  # type: ignore[union-attr]
        for i in range(50):
            assert round(float(data.to_image(samples[i]["image"])[0, 27, 0]) * 255) == labels[i]  # type: ignore[index]


def test_a_folder_of_the_originals_gzipped_or_not(originals: Path, tmp_path: Path) -> None:
    check(f"fashion-mnist:{originals}")
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in originals.iterdir():
        (plain / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    check(f"fashion-mnist:{plain}")
    assert not (tmp_path / "cache").exists()


def test_an_installed_package_fills_the_cache(originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "_INSTALLED", str(originals)[1:])
    check()
    monkeypatch.setattr(fashion_mnist, "_INSTALLED", "nothing")
    check()


def test_debians_package_is_fetched_and_unpacked(originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands are played by a stand-in that does what they do to the folder they run in."""
    ran = []

    def run(command: tuple[str, ...], cwd: str, **options: object) -> subprocess.CompletedProcess[str]:
        ran.append(command[:2])
        if command[0] == "apt-get":
            Path(cwd, "dataset-fashion-mnist_0_all.deb").touch()
        else:
            assert command[2].endswith(".deb")
            shutil.copytree(originals, Path(command[3], "usr/share/x"))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fashion_mnist, "_INSTALLED", "usr/share/x")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    check()
    assert ran == [("apt-get", "download"), ("dpkg-deb", "-x")]
    check()
    assert len(ran) == 2


def test_torchvision_downloads_where_there_is_no_package(
    originals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(self: torchvision.datasets.FashionMNIST) -> None:
        os.makedirs(self.raw_folder)
        for path in originals.iterdir():
            Path(self.raw_folder, path.stem).write_bytes(gzip.decompress(path.read_bytes()))

    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "download", download)
    check()


def test_where_nothing_works_it_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as caught:
        open_data("fashion-mnist")
    text = str(caught.value)
    assert "Debian's dataset-fashion-mnist could not be fetched: this system has no apt-get" in text
    assert "torchvision could not download it: no network" in text
    assert "fashion-mnist:FOLDER" in text

    def failing(command: tuple[str, ...], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 100, "", "W: noise\nE: Unable to locate package")

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(UserError, match="apt-get download failed: E: Unable to locate package"):
        open_data("fashion-mnist")


def test_incomplete_and_damaged_files_are_refused(originals: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(originals, part)
    (part / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="lacks t10k-labels-idx1-ubyte"):
        open_data(f"fashion-mnist:{part}")
    few = np.zeros(10000, dtype=np.uint8)
    (part / "t10k-labels-idx1-ubyte").write_bytes(idx(few))
    with pytest.raises(UserError, match=f"in {part} is damaged .*1000 of each of 10 classes"):
        open_data(f"fashion-mnist:{part}")
