"""One server starts all processes of tests: whoever asks first starts it, with what all of them import."""

from __future__ import annotations

import multiprocessing

multiprocessing.set_forkserver_preload(
    ["polymask.training.trainer", "polymask.training.sharding", "polymask.nn.teachers"]
)
