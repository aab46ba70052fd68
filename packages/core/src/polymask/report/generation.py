"""Samples that a system generates: in files, and on the page of a run."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from polymask import functional
from polymask.data import MediaProvider, Renderer, collate, evenly, sample_of
from polymask.errors import UserError
from polymask.evaluation.features import evaluating, on_device
from polymask.files import atomic, contents, require_writable
from polymask.mask import Mask
from polymask.plugins.registry import Registry, default_registry
from polymask.protocols import Batch, Masking
from polymask.report import views
from polymask.report.drawing import Pixels, png, sheet, to_pixels
from polymask.run import Run
from polymask.step import Step
from polymask.systems.base import Generates, Generation, System
from polymask.systems.host import implementing

NAMES = GRID, NUMBERS, KNOWN, WAY = "grid.png", "samples.safetensors", "known.png", "states.png"
SAMPLE = "sample-"
"""With which the names of all other files begin."""

MADE = {"made_by": "polymask generate"}
"""What :data:`NUMBERS` says of itself, which tells a folder of ours."""

SIDE, STATES = 112, 12


@dataclass(frozen=True)
class Film:
    """States of samples one below the other, which a page shows one after the other.

    Args:
        uri: all of them as a picture.
        frames: how many.
        width: of one, in pixels.
        height: of one, in pixels.
        note: what they show.
    """

    uri: str
    frames: int
    width: int
    height: int
    note: str


@dataclass(frozen=True, eq=False)
class Generated:
    """What a run generated.

    Args:
        samples: as those of its data, with their ids.
        frames: the same at intermediate states.
        known: what was to be completed, hidden sites in colour; None where nothing was known.
    """

    samples: Batch
    frames: Sequence[Batch]
    known: Sequence[Pixels] | None = None


def generator_of(system: System, registry: Registry | None = None) -> Generates:
    """The system, or the one that it hosts, if it generates.

    Raises:
        UserError: neither does.
    """
    found: Generates | None = implementing(system, Generates)
    if found is None:
        names = []
        for part in (registry or default_registry()).parts("systems"):
            with suppress(UserError):
                if hasattr(part.load(), "generate"):
                    names.append(part.full_name)
        raise UserError(
            f"{type(system).__name__} generates nothing; of the installed systems these do: "
            f"{', '.join(names) or 'none'}"
        )
    return found


def generate(
    run: Run,
    n: int = 16,
    *,
    masking: Masking | None = None,
    seed: int = 0,
    batch_size: int = 64,
    **options: Any,
) -> Generated:
    """Samples of a run's system, by the weights that it has.

    Args:
        run: the run; its data give shapes, labels, and what is completed.
        n: how many samples.
        masking: what to hide of held-out samples, which are completed; None to generate from nothing.
        seed: of all chance.
        batch_size: samples at a time; they do not depend on it.
        options: of the system's ``generate``.

    Raises:
        UserError: the system generates nothing, or its samples cannot be masked.
    """
    system, data = run.system, run.data
    maker, step = generator_of(system), Step(run.step, max(run.step, 1), seed)
    samples, labels, _ = views.held_out(data, system)
    places = evenly(len(samples), n)
    made, frames, known = list[Batch](), list[Sequence[Batch]](), list[Pixels]()
    with evaluating(system):
        for start in range(0, n, batch_size):
            numbers = range(start, min(start + batch_size, n))
            batch = views.batch_of(samples, [places[i % len(places)] for i in numbers], labels)
            batch["id"] = torch.tensor(list(numbers))
            here = on_device(batch, system)
            mask = None if masking is None else _mask(system, masking, here, step)
            found: Generation = maker.generate(here, step, mask, **options)
            made.append({**_cpu(found.samples), "id": batch["id"]})
            frames.append([{**_cpu(frame), "id": batch["id"]} for frame in found.frames])
            if masking is not None:
                known += _known(run, masking, here, step)
    states = [_joined(parts) for parts in zip(*frames, strict=True)]
    return Generated(_joined(made), states, known or None)


def strips(run: Run, found: Generated, side: int = SIDE) -> list[list[Pixels]]:
    """The states of each sample as pictures, a row per sample, its last one the sample."""
    states = [found.frames[k] for k in evenly(len(found.frames), STATES)] or [found.samples]
    columns = [views.pictures_of(run.data, state, side) for state in states]
    return [list(row) for row in zip(*columns, strict=True)]


def film(run: Run, n: int = 8) -> Film:
    """Some samples of a run on their way; all states where there are few, else evenly spaced ones."""
    found = generate(run, n)
    states = [sheet([row], gap=16) for row in zip(*strips(run, found), strict=True)]
    height, width = states[0].shape[:2]
    uri = "data:image/png;base64," + base64.b64encode(png(np.concatenate(states))).decode()
    return Film(uri, len(states), width, height, f"{n} samples, not selected")


def require_own(folder: Path) -> None:
    """See that a folder for samples can be written, and holds no file of something else by a name of ours.

    Raises:
        UserError: it cannot, or does.
    """
    require_writable(folder)
    theirs = [name for name in contents(folder) if name in NAMES or name.startswith(SAMPLE)]
    if theirs and not _is_own(folder / NUMBERS):
        raise UserError(f"{folder} holds a {theirs[0]} of something else: give another --out")


def _is_own(numbers: Path) -> bool:
    """Whether samples were written by :func:`write`."""
    with suppress(OSError, SafetensorError), safe_open(numbers, "np") as file:
        return MADE.items() <= (file.metadata() or {}).items()
    return False


def write(run: Run, found: Generated, folder: Path) -> list[Path]:
    """Write pictures of all samples, of the way to them and of what was known, and files of each sample.

    A sample is what its data shows of it where that can be saved (audio), a PNG otherwise. All numbers are in
    ``samples.safetensors``. What was written there before is gone then.

    Returns:
        Paths of the files.

    Raises:
        UserError: they cannot be written.
    """
    from safetensors.torch import save

    pictures = views.pictures_of(run.data, found.samples, SIDE)
    wide = max(1, round(len(pictures) ** 0.5))
    grid = [pictures[k : k + wide] for k in range(0, len(pictures), wide)]
    content = save({key: x.contiguous() for key, x in found.samples.items()}, MADE)
    files = {NUMBERS: content, GRID: png(sheet(grid))}  # the first tells whose folder this is
    if found.known is not None:
        pairs = list(zip(found.known, pictures, strict=True))
        files[KNOWN] = png(sheet([*map(list, pairs)]))
    if len(found.frames) > 1:
        files[WAY] = png(sheet(strips(run, found)[:8]))
    for row, number in enumerate(found.samples["id"].tolist()):
        for suffix, content in _files(run, found.samples, row):
            files[f"{SAMPLE}{number:05d}{suffix}"] = content
    for name, content in files.items():
        with atomic(folder / name, "wb") as file:
            file.write(content)
    for name in set(contents(folder)) - files.keys():
        if name in NAMES or re.fullmatch(rf"{SAMPLE}\d{{5,}}\.\w+", name):
            (folder / name).unlink()
    return [folder / name for name in files]


def _files(run: Run, samples: Batch, row: int) -> list[tuple[str, bytes]]:
    data: Any = run.data
    sample = sample_of(samples, row)
    if isinstance(data, MediaProvider):
        shown: Sequence[Any] = list(data.media(sample).values())
        return [x.file() for x in shown if hasattr(x, "file")]
    picture = data.render(sample) if isinstance(data, Renderer) else data.to_image(sample[data.key])
    return [(".png", png(sheet([[to_pixels(picture)]])))]


def _mask(system: System, masking: Masking, batch: Batch, step: Step) -> Mask:
    tokenizer = getattr(system, "tokenizer", None)
    if tokenizer is None:
        raise UserError(
            f"{type(system).__name__} has no tokenizer, so there is nothing to hide: leave --masking out"
        )
    mask = functional.draw_mask(masking, tokenizer(batch), batch, step)
    return functional.require_hard_mask("generate", masking, mask)


def _known(run: Run, masking: Masking, batch: Batch, step: Step) -> list[Pixels]:
    """What is visible of samples, hidden sites in colour."""
    (view, *_) = views.of_masking(masking, run.system.tokenizer)(batch, step).values()
    own = _cpu(batch)
    return view.pixels(run.data, own, views.pictures_of(run.data, own, SIDE))


def _cpu(batch: Batch) -> Batch:
    return {key: value.detach().cpu() for key, value in batch.items()}


def _joined(parts: Sequence[Batch]) -> Batch:
    return collate([sample_of(part, row) for part in parts for row in range(len(part["id"]))])
