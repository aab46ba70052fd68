"""How good features are: the same probes for a trained encoder, an untrained one and the raw input."""

from polymask.evaluation.embed import embed
from polymask.evaluation.intervals import Interval
from polymask.evaluation.measurements import Evaluation, Measurement, Measurements, evaluate_run
from polymask.evaluation.probe import evaluate, probe
from polymask.evaluation.result import ProbeResult, ProbeRow

__all__ = [
    "Evaluation",
    "Interval",
    "Measurement",
    "Measurements",
    "ProbeResult",
    "ProbeRow",
    "embed",
    "evaluate",
    "evaluate_run",
    "probe",
]
