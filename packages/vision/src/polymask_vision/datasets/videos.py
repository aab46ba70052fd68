"""A folder of video files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from polymask.data import BadSample, Splits, reading
from polymask.data.folders import read_folder
from polymask.data.splits import Names
from polymask.types import Share
from polymask_vision.datasets.caption_files import read_captions
from polymask_vision.datasets.decode import Raw, reason
from polymask_vision.datasets.texts import SeveralCaptions

ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".mts", ".ogv"),
    *(".wmv", ".flv", ".3gp"),
)
"""Files taken for video."""

_SLACK = 0.5
"""A file may end so many seconds before it says, or a tenth of its length: sound may outlast frames."""


def videos(*, source: str, test: Share = 0.1) -> Splits[Files]:
    """Video files at any depth of a folder: mp4, mov, mkv, webm, avi, gif, ..., whatever PyAV decodes.

    Folders mean what they mean of images (``folder:PATH``): classes where every file lies in a subfolder,
    ``train`` and ``test`` where there are any. Files that hold no video, or cannot be opened, are skipped and
    listed in ``skipped``; damage that shows only on decoding does not stop training: another clip of the
    class stands in.

    Captions are read as of images, and all rows of a clip in ``captions.csv`` or ``captions.jsonl`` are
    captions of it.

    Args:
        source: the folder (``videos:PATH``).
        test: share of each class to hold out where there is no folder for it.
    """
    found = read_folder(source, ENDINGS, "videos", _seconds, again=float)
    captions, skipped = read_captions(found.root, found.names, found.skipped, several=True)
    files = Files(found.root, found.names, found.looks)
    if captions is not None:
        files = CaptionedFiles(found.root, found.names, found.looks, captions)
    return dataclasses.replace(found, skipped=skipped).splits(files, test)


def example_source(folder: Path) -> str:
    """Squares that move to the right or to the left, in two class folders."""
    for i in range(8):
        path = folder / ("left", "right")[i % 2] / f"{i}.mkv"
        path.parent.mkdir(exist_ok=True)
        frames = np.zeros((12, 24, 32, 3), np.uint8)
        for t in range(12):
            place = 2 * t if i % 2 else 24 - 2 * t
            frames[t, 8:16, place : place + 8] = 255 - 20 * i
        write(path, frames, rate=12)
    return str(folder)


def write(path: Path, frames: np.ndarray, rate: int, codec: str = "mpeg4") -> None:
    """Frames as a file.

    Args:
        path: whose suffix says the container.
        frames: uint8 ``[T, H, W, 3]``.
        rate: frames per second.
        codec: as FFmpeg calls it.
    """
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(rate))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


class Files:
    """Video files by number.

    Args:
        root: the folder that names are relative to.
        names: of the files.
        lengths: of each in seconds.
    """

    def __init__(self, root: Path, names: Sequence[str], lengths: Sequence[float]) -> None:
        self.root, self.names, self.lengths = root, Names(names), np.array(lengths, np.float64)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def seconds(self, index: int) -> float:
        return float(self.lengths[index])

    def frames(self, index: int, times: Sequence[float]) -> list[Raw]:
        length = self.seconds(index)
        with reading(reason), av.open(str(self.root / self.names[index])) as container:
            shown = _shown(container, times)
            if not shown:
                raise BadSample("it holds no frames")
            missing = len(times) - len(shown)
            end = float(shown[-1].time or 0) + _duration(shown[-1]) - _start(container)
            if missing and times[-1] - end > max(_SLACK, length / 10):
                raise BadSample(f"it ends after {end:.1f} of {length:.1f} seconds")
            shown += shown[-1:] * missing
            return [np.rot90(x.to_ndarray(format="rgb24"), round(x.rotation / 90)) for x in shown]


class CaptionedFiles(SeveralCaptions, Files):
    """Video files with captions, by number.

    Args:
        root: the folder that names are relative to.
        names: of the files.
        lengths: of each in seconds.
        captions: of each, none or several.
    """

    def __init__(
        self, root: Path, names: Sequence[str], lengths: Sequence[float], captions: Sequence[Sequence[str]]
    ) -> None:
        super().__init__(root, names, lengths)
        self.captions = captions


def _duration(frame: av.VideoFrame) -> float:
    """How long a frame is to be seen, in seconds; 0 where the file does not tell."""
    return float((frame.duration or 0) * (frame.time_base or 0))


def _shown(container: av.container.InputContainer, times: Sequence[float]) -> list[av.VideoFrame]:
    """The last frame at or before each time, in order; where the file ends before, up to its last one."""
    stream, start = container.streams.video[0], _start(container)
    stream.thread_type = "AUTO"
    if times[0] > 0 and stream.time_base is not None:
        # to the key frame before
        container.seek(int((start + times[0]) / stream.time_base), stream=stream)
    shown: list[av.VideoFrame] = []
    last: av.VideoFrame | None = None
    for frame in container.decode(stream):
        now = float(frame.time or 0) - start
        while len(shown) < len(times) and now > times[len(shown)]:
            shown.append(last or frame)
        if len(shown) == len(times):
            return shown
        last = frame
    return [*shown, last] if last is not None else shown


def _start(container: av.container.InputContainer) -> float:
    stream = container.streams.video[0]
    return float((stream.start_time or 0) * (stream.time_base or 0))


def _seconds(path: Path) -> float:
    """The length of a video.

    Raises:
        BadSample: it holds none, or its first frame cannot be decoded.
    """
    with reading(reason), av.open(str(path)) as container:
        if not container.streams.video:
            raise BadSample("it holds no video")
        stream = container.streams.video[0]
        frames = container.decode(stream)
        first = next(frames, None)
        if first is None:
            raise BadSample("it holds no frames")
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        if container.duration:
            return container.duration / av.time_base
        last = first
        for last in frames:  # noqa: B007  # what says no length is decoded to its end
            pass
        return float(last.time or 0) - float(first.time or 0) + float(1 / (stream.average_rate or 25))
