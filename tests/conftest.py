"""One server starts all processes of tests: whoever asks first starts it, with what all of them import."""

from __future__ import annotations

import multiprocessing

PRELOAD = ["polymask.training.trainer", "polymask.systems.mae", "polymask.systems.simmim"]
PRELOAD += ["polymask.evaluation.features", "polymask_vision.datasets.digits", "polymask_vision.encoders"]
multiprocessing.set_forkserver_preload(PRELOAD)
