"""Maskings for any grid or set of sites."""

from polymask.maskings.bernoulli import Bernoulli
from polymask.maskings.block import Block
from polymask.maskings.choose import ranks
from polymask.maskings.color import Color
from polymask.maskings.disjoint import Disjoint
from polymask.maskings.drawn_ratio import DrawnRatio
from polymask.maskings.frequency import Frequency
from polymask.maskings.modalities import Modalities
from polymask.maskings.multi_block import MultiBlock
from polymask.maskings.partition import Partition
from polymask.maskings.random import Random
from polymask.maskings.ranking import Ranking
from polymask.maskings.scheduled import Scheduled
from polymask.maskings.span import Span
from polymask.maskings.threshold import Gumbel, Threshold
from polymask.maskings.top_score import TopScore
from polymask.maskings.tube import Tube, TubeBlocks

__all__ = [
    "Bernoulli",
    "Block",
    "Color",
    "Disjoint",
    "DrawnRatio",
    "Frequency",
    "Gumbel",
    "Modalities",
    "MultiBlock",
    "Partition",
    "Random",
    "Ranking",
    "Scheduled",
    "Span",
    "Threshold",
    "TopScore",
    "Tube",
    "TubeBlocks",
    "ranks",
]
