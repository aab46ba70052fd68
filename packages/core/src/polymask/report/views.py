"""Masks of a system or a masking over samples of a data set, ready to be drawn and counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import functional
from polymask.data import Dataset, Renderer, Samples, SplitName, collate, sample_of
from polymask.errors import UserError
from polymask.mask import Mask
from polymask.parts import slot_kind
from polymask.protocols import Batch, Masking, Target, Tokenizer
from polymask.report.drawing import Pixels, blank, overlay, scale, to_pixels
from polymask.report.statistics import MaskStatistics, describe
from polymask.step import Step
from polymask.supervision import labels_for, with_labels
from polymask.systems.base import Explains, System
from polymask.systems.host import implementing
from polymask.tokens import Tokens


@dataclass(frozen=True, eq=False)
class View:
    """One mask per sample.

    Args:
        hidden: ``[B, *grid]``, or ``[B, sites]`` where sites fill no grid.
        grid: lengths of the axes of the sites, or None.
        on_picture: whether sites lie over the sample's picture (tokens do; frequencies do not).
        valid: bool ``[B, sites]``, False where there is nothing to hide; None where there is everywhere.
        tokens: that the sites are, or None.
        made: what the tokens are of, where a system makes that of the samples; None where they are it.
    """

    hidden: Tensor
    grid: tuple[int, ...] | None
    on_picture: bool
    valid: Tensor | None = None
    tokens: Tokens | None = None
    made: Batch | None = None

    def pixels(self, data: Dataset, batch: Batch, pictures: Sequence[Pixels]) -> list[Pixels]:
        """The mask of each sample over its picture, or over nothing.

        Args:
            data: that the samples are from.
            batch: the samples.
            pictures: of them, as :func:`pictures_of` draws them.
        """
        if self.made is not None:
            batch, pictures = self.made, pictures_of(data, self.made, max(p.shape[-2] for p in pictures))
        if self.tokens is not None:
            # words of a data set of something else are drawn by its captions
            drawn = getattr(data, "texts", None) if self.tokens.ids is not None else None
            drawn = data if isinstance(data, Renderer) else drawn
            if drawn is not None:
                return [self._drawn(drawn, sample_of(batch, i), i) for i in range(len(pictures))]
        return [
            overlay(picture if self.on_picture else blank(*picture.shape[:-1]), self._real(self.hidden, i))
            for i, picture in enumerate(pictures)
        ]

    def bare(self, side: int) -> list[Pixels]:
        """The mask of each sample, over nothing."""
        return [overlay(blank(side, side), row) for row in self.hidden]

    def _drawn(self, data: Renderer, sample: dict[str, Tensor], row: int) -> Pixels:
        tokens = self.tokens
        assert tokens is not None
        kept = {
            name: self._real(value, row, tokens.valid)[None]
            for name in ("values", "position", "ids")
            if (value := getattr(tokens, name)) is not None
        }
        hidden = self._real(self.hidden.flatten(1), row, tokens.valid)
        return to_pixels(data.render(sample, Tokens(**kept, grid=tokens.grid), hidden))

    def _real(self, x: Tensor, row: int, valid: Tensor | None = None) -> Tensor:
        """One row of what has a value per site, without its padding."""
        return x[row] if valid is None else x[row][valid[row]]


MaskFunction = Callable[[Batch, Step], dict[str, View]]
"""Views by name for a batch at a step."""


def of_masking(masking: Masking, tokenizer: Tokenizer, score: Target | None = None) -> MaskFunction:
    """Views of a masking over the tokens of a tokenizer; several where the masking has ``views``."""
    count: int = getattr(masking, "views", 1)
    names = ["mask"] if count == 1 else [f"view {k + 1}" for k in range(count)]
    cut = _kept(tokenizer)

    def views(batch: Batch, step: Step) -> dict[str, View]:
        tokens = cut(batch)
        return {
            name: _view(functional.draw_mask(masking, tokens, batch, step, score, stream), tokens)
            for stream, name in enumerate(names)
        }

    return views


def of_system(system: System) -> MaskFunction:
    """Views of the masks that a system's ``forward`` draws; a batch seen twice in a row is cut once."""
    tokenizers = [
        m for name, m in system.named_modules() if slot_kind(name.rpartition(".")[2]) == "tokenizers"
    ]
    cuts = [_kept(tokenizer.forward) for tokenizer in tokenizers]

    def views(batch: Batch, step: Step) -> dict[str, View]:
        for tokenizer, cut in zip(tokenizers, cuts, strict=True):
            vars(tokenizer)["forward"] = cut
        try:
            masks = system.masks(batch, step)
        finally:
            for tokenizer in tokenizers:
                del vars(tokenizer)["forward"]
        return {name: _view(found.mask, found.tokens, found.batch) for name, found in masks.items()}

    return views


def _kept(cut: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
    """A tokenizer that remembers its last batch: statistics draw from few samples many times."""
    last: list[tuple[Batch, Any]] = []

    def kept(batch: Batch) -> Any:
        if not last or last[0][0] is not batch:
            last[:] = [(batch, cut(batch))]
        return last[0][1]

    return kept


def explanation(system: System, batch: Batch, step: Step) -> View | None:
    """What the answers to samples depend on, as what is left of them; None where the system does not say."""
    explains: Explains | None = implementing(system, Explains)
    if explains is None:
        return None
    tokens: Tokens | None = system.tokenizer(batch)
    covered = 1 - explains.explain(batch, step).cpu()
    if tokens is None or tokens.shape != covered.flatten(1).shape:
        tokens = None  # finer than tokens
    grid = tuple(covered.shape[1:]) if covered.dim() > 2 else None
    valid = None if tokens is None else tokens.valid
    return View(covered, grid, grid is not None, valid, tokens)


def _view(mask: Mask, tokens: Tokens | None, made: Batch | None = None) -> View:
    hidden = mask.hidden.detach().cpu()
    valid = None if mask.valid is None else mask.valid.flatten(1).cpu()
    if tokens is not None and hidden.shape == tokens.shape:
        grid = tokens.grid
        return View(
            hidden if grid is None else hidden.view(-1, *grid), grid, grid is not None, valid, tokens, made
        )
    if hidden.dim() == 2:
        return View(hidden, None, False, valid)
    grid = tuple(hidden.shape[1:])
    return View(hidden, grid, tokens is not None and grid == tokens.grid)


def held_out(data: Dataset, what: object = None) -> tuple[Samples, Tensor | None, str]:
    """Test samples, or training samples where there are none; and what they are called.

    Args:
        data: the data set.
        what: what looks at the samples; a supervised system gets their labels too, int64 ``[samples]``.
    """

    def given(split: SplitName) -> tuple[Samples, Tensor | None]:
        return data.split(split), labels_for(what, data, split) if isinstance(what, System) else None

    try:
        return *given("test"), "held-out samples"
    except UserError:
        return *given("train"), "training samples, for want of held-out ones"


def batch_of(samples: Samples, index: Sequence[int], labels: Tensor | None = None) -> Batch:
    """Some samples of a split, with their ids, and their labels if there are any."""
    batch = collate([samples[i] for i in index])
    batch["id"] = torch.tensor(list(index))
    return with_labels(batch, labels)


def pictures_of(data: Dataset, batch: Batch, side: int) -> list[Pixels]:
    """The samples of a batch as pictures or clips about ``side`` pixels wide, blank where data has neither.

    Those that the data set draws itself keep their size.
    """
    if isinstance(data, Renderer):
        return [to_pixels(data.render(sample_of(batch, i))) for i in range(len(batch["id"]))]
    if not hasattr(data, "to_image"):
        return [blank(side, side) for _ in batch["id"]]
    return [scale(to_pixels(data.to_image(x)), side) for x in batch[data.key]]


def statistics_of(
    viewer: MaskFunction,
    source: Samples,
    step: Step,
    masks: int = 2048,
    batch_size: int = 256,
    labels: Tensor | None = None,
) -> dict[str, MaskStatistics]:
    """Statistics of a viewer's masks over real samples at one step.

    Where the data has fewer samples than masks are wanted, each sample draws again from
    another seed.
    """
    samples = len(source)
    # few samples are one batch, which would be read again for each round of seeds
    read = lru_cache(maxsize=1)(lambda index: batch_of(source, index, labels))
    drawn: dict[str, list[View]] = {}
    for start in range(0, math.ceil(masks / samples) * samples, samples):
        at = Step(step.index, step.total, step.seed + start // samples)
        wanted = range(min(samples, masks - start))
        for index in (wanted[i : i + batch_size] for i in wanted[::batch_size]):
            for name, view in viewer(read(index), at).items():
                drawn.setdefault(name, []).append(view)
    return {name: _describe(views) for name, views in drawn.items()}


def _describe(views: Sequence[View]) -> MaskStatistics:
    """Statistics of the masks of several batches, which may be padded to different lengths."""
    hidden = [view.hidden.flatten(1) for view in views]
    grids = {view.grid for view in views}
    grid = grids.pop() if len(grids) == 1 else None
    sites = max(x.shape[1] for x in hidden)
    if all(view.valid is None for view in views) and all(x.shape[1] == sites for x in hidden):
        return describe(torch.cat(hidden), grid)
    whole = (torch.ones(x.shape, dtype=torch.bool) for x in hidden)
    valid = [real if view.valid is None else view.valid for view, real in zip(views, whole, strict=True)]
    padded = [torch.cat([F.pad(x, (0, sites - x.shape[1])) for x in rows]) for rows in (hidden, valid)]
    return describe(padded[0], grid, padded[1])
