"""Maskings for any grid or set of sites."""

from polymask.maskings.block import Block
from polymask.maskings.disjoint import Disjoint
from polymask.maskings.random import Random
from polymask.maskings.ranking import Ranking
from polymask.maskings.scheduled import Scheduled
from polymask.maskings.span import Span
from polymask.maskings.top_score import TopScore

__all__ = ["Block", "Disjoint", "Random", "Ranking", "Scheduled", "Span", "TopScore"]
