"""Two frames of a video as a pair of pictures."""

from __future__ import annotations

import torch

from polymask import UserError
from polymask.data import Skipped, Split, Splits
from polymask.types import Positive, Share
from polymask_vision.datasets import videos
from polymask_vision.datasets.decode import Raw


def video_pairs(
    *, source: str, apart: Positive = 0.5, every: Positive = 1.0, test: Share = 0.1
) -> Splits[FramePairs]:
    """Frames of video files as ``image``, and of each the frame some time after it as ``other``.

    Files are found as by ``videos``, and so are classes and splits: all pairs of a clip are of one split. How
    much the two frames see of one another is for ``apart`` to say, by how fast the camera and things move:
    frames that are hardly different teach to copy. Frames at both sides of a cut show two scenes; that is not
    looked into.

    Clips that are shorter than ``apart`` are left out and listed in ``skipped``.

    Args:
        source: the folder (``video-pairs:PATH``).
        apart: seconds between the two frames.
        every: seconds from one pair to the next.
        test: share of the clips of each class to hold out where there is no folder for it.
    """
    found = videos.videos(source=source, test=test)
    clips = found.train.source
    counts = [int(max(seconds - apart, -every) // every) + 1 for seconds in clips.lengths.tolist()]
    pairs = FramePairs(clips, counts, apart, every)
    short: Skipped = [
        (clips.name(clip), f"it is {clips.seconds(clip):.2f} seconds long, and frames are {apart:g} apart")
        for clip, count in enumerate(counts)
        if not count
    ]
    if not len(pairs):
        raise UserError(
            f"video-pairs:{source}: all {len(clips)} clips are shorter than {apart:g} seconds: give a "
            "smaller --data.apart"
        )
    return Splits(
        train=_of_clips(found.train, pairs),
        test=_of_clips(found.test, pairs),
        classes=found.classes,
        skipped=sorted([*found.skipped, *short]),
    )


example_source = videos.example_source


class FramePairs:
    """Pairs of frames by number, those of a clip in a row.

    Args:
        clips: where they are.
        counts: pairs of each clip.
        apart: seconds between the two frames.
        every: seconds from one pair to the next.
    """

    def __init__(self, clips: videos.Files, counts: list[int], apart: float, every: float) -> None:
        self.clips, self.apart, self.every = clips, apart, every
        self.clip = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        self.first = torch.tensor([0, *counts]).cumsum(0)
        self._last: tuple[int, list[Raw]] = (-1, [])

    def __len__(self) -> int:
        return len(self.clip)

    def name(self, index: int) -> str:
        return f"{self.clips.name(int(self.clip[index]))} at {self._time(index):g} s"

    def read(self, index: int) -> Raw:
        return self._frames(index)[0]

    def other(self, index: int) -> Raw:
        return self._frames(index)[1]

    def _time(self, index: int) -> float:
        return int(index - self.first[self.clip[index]]) * self.every

    def _frames(self, index: int) -> list[Raw]:
        """Both frames, decoded in one go."""
        last = self._last
        if last[0] != index:
            time = self._time(index)
            self._last = last = index, self.clips.frames(int(self.clip[index]), [time, time + self.apart])
        return last[1]


def _of_clips(split: Split[videos.Files], pairs: FramePairs) -> Split[FramePairs]:
    """The pairs of the clips of a split, with the labels of these."""
    labels = torch.full((len(pairs.clips),), -1)
    chosen = torch.zeros(len(pairs.clips), dtype=torch.bool)
    chosen[split.index] = True
    index = chosen[pairs.clip].nonzero()[:, 0]
    if split.labels is None:
        return Split(pairs, index)
    labels[split.index] = split.labels
    return Split(pairs, index, labels[pairs.clip[index]])
