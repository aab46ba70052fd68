"""One server starts all processes of tests: whoever asks first starts it, with what all of them import."""

from __future__ import annotations

import multiprocessing

PRELOAD = ["polymask.training.trainer", "polymask.training.sharding", "polymask.systems.mae"]
PRELOAD += ["polymask.systems.simmim", "polymask.evaluation.features", "polymask_vision.datasets.digits"]
PRELOAD += ["polymask_vision.encoders"]  # timm
multiprocessing.set_forkserver_preload(PRELOAD)
