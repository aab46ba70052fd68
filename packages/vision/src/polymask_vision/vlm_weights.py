"""What stays of a language model of images when it is trained: kept by itself, and begun with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymask import UserError
from polymask.checkpoints import CHECKPOINT, PREFIX, read_checkpoint, read_state, some
from polymask.export import save_json, save_state
from polymask.files import read_json
from polymask.imports import DESCRIPTION, WEIGHTS, Weights

KEPT = ("encoder.", "projector.", "task_tokens.", "text_encoder.")
"""Names of weights that answer; heads, what scores them and teachers are not among them."""


VOCABULARY = "tokenizer.json"
"""What ids mean, in an export."""


def save_vlm(system: Any, facts: Mapping[str, Any], out: Path) -> None:
    """Write these weights, what is known of the data, and the vocabulary of its texts."""
    save_state(kept(system.state_dict()), out / WEIGHTS)
    save_json({"facts": facts}, out / DESCRIPTION)
    file = system.text_tokenizer.tokenizer_file
    if file is not None:
        shutil.copyfile(file, out / VOCABULARY)


def kept(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those weights of a system that stay."""
    return {name: x for name, x in state.items() if name.startswith(KEPT)}


def begin_with(system: Any, base: str) -> None:
    """Set the weights of a system to those of a run or an export of its like.

    Task tokens of teachers that it lacks are added, and stay as they are; those that the base lacks are new.

    Raises:
        UserError: nothing such is there, or it is of other sizes or of another vocabulary.
    """
    state, facts = _read(Path(base).expanduser())
    text = facts.get("text", {})
    ours = {"tokenizer_file": system.text_tokenizer.tokenizer_file}
    system.text_encoder.adapt(Weights({}, facts=text), ours)
    for name in state:
        own = name.removeprefix("task_tokens.")
        if own != name and own not in system.task_tokens:
            system.task_tokens[own] = nn.Parameter(torch.empty_like(state[name]), requires_grad=False)
    wanted = kept(system.state_dict())
    found = [f"{name} only in the base" for name in state.keys() - wanted.keys()]
    found += [
        f"{name} only here" for name in wanted.keys() - state.keys() if not name.startswith("task_tokens.")
    ]
    found += [
        f"{name} {list(state[name].shape)} in the base, {list(wanted[name].shape)} here"
        for name in state.keys() & wanted.keys()
        if state[name].shape != wanted[name].shape
    ]
    if found:
        raise UserError(
            f"base={base} is of other sizes or options than this system; {len(found)} of its weights "
            f"differ:{some(found)}"
        )
    system.load_state_dict(state, strict=False)


def _read(base: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    if (base / CHECKPOINT).is_file():
        checkpoint = read_checkpoint(base / CHECKPOINT)
        whole = {name.removeprefix(PREFIX): x for name, x in checkpoint["state_dict"].items()}
        found, facts = kept(whole), checkpoint["polymask"]["facts"]
    elif (base / WEIGHTS).is_file() and (base / DESCRIPTION).is_file():
        found = kept(read_state(base / WEIGHTS))
        facts = read_json(base / DESCRIPTION, lambda saved: dict(saved["facts"]), "export it again")
        if (base / VOCABULARY).is_file():
            facts["text"] = {**facts.get("text", {}), "tokenizer_file": str(base / VOCABULARY)}
    else:
        found, facts = {}, {}
    if not any(name.startswith("projector.") for name in found):
        raise UserError(
            f"base={base} holds no language model of images: give the folder of a run of vision/ola-vlm, or "
            "of its export, --format vlm"
        )
    return found, facts
