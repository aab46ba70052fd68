"""What others read files by: data sets for torch's DataLoader, of the libraries that each modality has."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import soundfile
import torch
import torchaudio
from plyfile import PlyData
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

Points = npt.NDArray[np.float32]


def image_folder(folder: Path) -> ImageFolder:
    """Images cropped, flipped and normalised as polymask's ``crop-flip`` does."""
    crop = v2.RandomResizedCrop(224, (0.2, 1.0), interpolation=InterpolationMode.BICUBIC, antialias=True)
    tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    normalise = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return ImageFolder(folder, v2.Compose([crop, v2.RandomHorizontalFlip(), *tensor, normalise]))


class Sounds(Dataset[Tensor]):
    """A part of each recording, mono.

    Args:
        files: longer than ``seconds``, of one rate.
        rate: samples per second to resample to.
        seconds: of the part.
    """

    def __init__(self, files: Sequence[Path], rate: int, seconds: float) -> None:
        self.files, self.rate, self.seconds = files, rate, seconds
        header = soundfile.info(files[0])
        self.frames, self.length = header.frames, math.ceil(seconds * header.samplerate)
        self.resample = torchaudio.transforms.Resample(header.samplerate, rate)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        start = int(torch.randint(self.frames - self.length + 1, ()))
        values, _ = soundfile.read(self.files[index], self.length, start, dtype="float32", always_2d=True)
        sound: Tensor = self.resample(torch.from_numpy(values.mean(axis=1)))
        return sound[: round(self.seconds * self.rate)]


class Clouds(Dataset[Tensor]):
    """Some points of each cloud, in the unit sphere, turned about z.

    Args:
        files: of clouds.
        read: one of them, ``[n, 3]``.
        points: how many to take.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[Path], Points], points: int) -> None:
        self.files, self.read, self.points = files, read, points

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        cloud = torch.from_numpy(self.read(self.files[index]))
        cloud = cloud[torch.randperm(len(cloud))[: self.points]]
        cloud = cloud - cloud.mean(dim=0)
        cloud = cloud / cloud.norm(dim=1).max()
        angle = float(torch.rand(())) * 2 * math.pi
        c, s = math.cos(angle), math.sin(angle)
        return cloud @ torch.tensor([[c, s, 0], [-s, c, 0], [0, 0, 1]])


def read_npy(path: Path) -> Points:
    """An array."""
    cloud: Points = np.load(path)
    return cloud


def read_ply(path: Path) -> Points:
    """The corners of a PLY file."""
    vertex = PlyData.read(path)["vertex"]
    return np.stack([vertex["x"], vertex["y"], vertex["z"]], axis=1)


def tokenised(file: Path, length: int) -> Callable[[list[str]], Any]:
    """Lines to a batch of ids.

    Args:
        file: ``tokenizer.json``.
        length: tokens of a line, at most.
    """
    tokenizer = fast_tokenizer(file)
    return functools.partial(tokenizer, padding=True, truncation=True, max_length=length, return_tensors="pt")


def ids_kept(path: Path, file: Path, length: int) -> tuple[Any, Any]:
    """Lines of a file as ids in a cache beside it, and what makes a batch of some.

    Args:
        path: of the text.
        file: ``tokenizer.json``.
        length: tokens of a line, at most.
    """
    tokenizer = fast_tokenizer(file)

    def encode(lines: dict[str, list[str]]) -> Any:
        return tokenizer(lines["text"], truncation=True, max_length=length)

    datasets.disable_progress_bars()
    found: Any = datasets.load_dataset(
        "text", data_files=str(path), split="train", cache_dir=str(path.parent / "cache")
    )
    kept = found.map(encode, batched=True, remove_columns=["text"])
    return kept, DataCollatorWithPadding(tokenizer)


def fast_tokenizer(file: Path) -> Any:
    """As transformers has it."""
    return PreTrainedTokenizerFast(tokenizer_file=str(file), pad_token="[PAD]")
