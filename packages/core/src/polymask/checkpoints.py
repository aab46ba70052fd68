"""Checkpoints: what reads and writes them, and the weights in one that belong to a system."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.files import atomic
from polymask.systems.base import System

CHECKPOINT = "checkpoints/last.ckpt"
Checkpoint = dict[str, Any]
PREFIX = "system."


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint of ours; its tensors are read when they are used.

    Raises:
        UserError: there is none, it is damaged, or it is not one of ours.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}: the run has not come that far")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        why = f" ({error.strerror})" if isinstance(error, PermissionError) else ""
        raise UserError(
            f"the checkpoint {path} ({path.stat().st_size} bytes) is damaged or none at all{why}: put back a "
            "copy, or start anew with another --out"
        ) from error
    if not isinstance(checkpoint, dict) or not {"polymask", "state_dict"} <= checkpoint.keys():
        raise UserError(f"{path} is a checkpoint, but not one of polymask's")
    return checkpoint


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file.

    Raises:
        UserError: it is damaged, or another file.
    """
    try:
        found: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({error}); other files are not loaded, since pickles "
            "may run code: give the folder of a run, or convert it"
        ) from error
    return found


def write_tensors(path: Path, value: Any) -> None:
    """Write what ``torch.save`` takes, whole or not at all."""
    with atomic(path, "wb") as file:
        try:
            torch.save(value, file)
        # torch reports a failed write as RuntimeError, whatever the file raised
        except RuntimeError as error:
            before = error.__context__
            raise before if isinstance(before, OSError) else OSError(str(error)) from error


def system_weights(checkpoint: Checkpoint, system: System) -> dict[str, Tensor]:
    """The weights in a checkpoint that belong to this very system.

    Raises:
        UserError: names or shapes differ; says which.
    """
    saved = {
        name.removeprefix(PREFIX): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(PREFIX)
    }
    if found := differences(saved, system.state_dict(), "the checkpoint", "the system"):
        other = checkpoint["polymask"].get("system")
        raise UserError(
            f"the checkpoint is of another system ({other}) than {type(system).__name__}, or of one with "
            f"other options; {len(found)} of its weights differ:{some(found)}"
        )
    return saved


def differences(one: Mapping[str, Tensor], other: Mapping[str, Tensor], here: str, there: str) -> list[str]:
    """How weights differ in names and shapes, a line each, with what either side is called."""
    found = [f"{name} only in {here}" for name in one.keys() - other.keys()]
    found += [f"{name} only in {there}" for name in other.keys() - one.keys()]
    return found + [
        f"{name} {list(one[name].shape)} in {here}, {list(other[name].shape)} in {there}"
        for name in one.keys() & other.keys()
        if one[name].shape != other[name].shape
    ]


def some(lines: list[str], most: int = 8) -> str:
    """The first of some lines, each indented, and how many more there are."""
    shown = "".join(f"\n  {line}" for line in sorted(lines)[:most])
    return shown + (f"\n  and {len(lines) - most} more" if len(lines) > most else "")
