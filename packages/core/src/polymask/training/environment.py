"""On what a run runs: which device, which precision, which versions of everything."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any

import lightning
import torch
from torch import nn

from polymask import __version__
from polymask.config import TrainOptions
from polymask.plugins.registry import default_registry


def device_kind(accelerator: str) -> str:
    """``"cuda"``, ``"mps"`` or ``"cpu"`` for ``"auto"`` and ``"gpu"``; other names as they are."""
    if accelerator not in ("auto", "gpu"):
        return accelerator
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def precision_for(options: TrainOptions, system: nn.Module) -> str:
    """The precision to train in: ``auto`` is bf16-mixed where that is faster.

    On a GPU it is wherever bf16 is native. On a CPU the matrices must be large too: measured on
    one with avx512_bf16, a step of Transformer blocks took 1.1 times as long at width 128 and 0.7
    times at 192 and above.
    """
    if options.precision != "auto":
        return options.precision
    kind = device_kind(options.accelerator)
    if kind == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        sizes = [(p.numel(), p.ndim > 1 and min(p.shape[:2]) >= 192) for p in system.parameters()]
        wide = sum(n for n, large in sizes if large) > sum(n for n, _ in sizes) / 2
        fast = kind == "cpu" and wide and _cpu_has_bf16()
    return "bf16-mixed" if fast else "32"


def describe(options: TrainOptions, precision: str, world: int) -> dict[str, Any]:
    """What ``environment.json`` says."""
    plugins = {
        plugin.name: f"{plugin.distribution} {plugin.version}" for plugin in default_registry().plugins
    }
    kind = device_kind(options.accelerator)
    return {
        "polymask": __version__,
        "plugins": plugins,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "numpy": metadata.version("numpy"),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if kind == "cuda" else f"{kind} ({platform.machine()})",
        "processes": world,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "precision": precision,
        "command": sys.argv,
        "git": _git(),
    }


def _cpu_has_bf16() -> bool:
    # torch keeps these private; where they are gone, float32 is the safe answer
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def _git() -> str | None:
    """Commit of the folder the run is started in, marked where files differ from it; None outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
