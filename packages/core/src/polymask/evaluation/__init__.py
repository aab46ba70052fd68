"""How good features are: the same probes for a trained encoder, an untrained one and the raw input."""

from polymask.evaluation.intervals import Interval
from polymask.evaluation.probe import evaluate, probe
from polymask.evaluation.result import ProbeResult, ProbeRow
from polymask.evaluation.scores import Evaluation, Score, Scores, evaluate_run

__all__ = [
    "Evaluation",
    "Interval",
    "ProbeResult",
    "ProbeRow",
    "Score",
    "Scores",
    "evaluate",
    "evaluate_run",
    "probe",
]
