"""The parts of this package keep their promises with nothing but core beside them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from polymask.testing import check_part, parametrize_parts


@parametrize_parts(plugin="vision")
def test_part(check: Callable[[], None]) -> None:
    check()


def png(seed: int) -> bytes:
    """A small image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def folders(root: Path) -> dict[str, Any]:
    """Twenty images in two classes."""
    for index in range(20):
        path = root / ("cat", "dog")[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(index))
    return {"source": str(root)}


def image_folder(root: Path) -> dict[str, Any]:
    folders(root)
    return {"source": "ImageFolder", "root": str(root)}


def shards(root: Path) -> dict[str, Any]:
    with tarfile.open(root / "train.tar", "w") as tar:
        for index in range(20):
            for ending, content in (("png", png(index)), ("cls", str(index % 2).encode())):
                member = tarfile.TarInfo(f"{index:03}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return {"source": str(root / "train.tar")}


STAND_INS = {
    "vision/folder": folders,
    "vision/hf": folders,
    "vision/torchvision": image_folder,
    "vision/wds": shards,
}


@pytest.mark.parametrize("name", STAND_INS)
def test_data_set_of_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that read a source pass too, given one."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    source = tmp_path / "source"
    source.mkdir()
    results = check_part(name, kind="datasets", options=STAND_INS[name](source))
    assert not [result for result in results if result.outcome != "passed"]
