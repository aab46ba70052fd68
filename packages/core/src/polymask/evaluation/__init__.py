"""How good features are: the same probes for a trained encoder, an untrained one and the raw input."""

from polymask.evaluation.intervals import Interval
from polymask.evaluation.probe import ProbeResult, ProbeRow, evaluate, probe

__all__ = ["Interval", "ProbeResult", "ProbeRow", "evaluate", "probe"]
