"""Several processes of one script that torch.distributed joins."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def together(arguments: Sequence[str], count: int, **environ: Any) -> list[str]:
    """What each of some processes printed, by rank.

    Args:
        arguments: of Python: the script, and what it takes.
        count: of processes.
        environ: further variables of their environment.

    Raises:
        SystemExit: one failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "race", "GROUP_RANK": 0}
    env |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "OMP_NUM_THREADS": 1, **environ}
    running = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **{key: str(value) for key, value in {**env, **ranks}.items()}},
            stdout=subprocess.PIPE,
            text=True,
        )
        for ranks in ({"RANK": rank, "LOCAL_RANK": rank} for rank in range(count))
    ]
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"{' '.join(arguments[1:])}: a process failed")
    return said
