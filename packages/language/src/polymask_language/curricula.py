"""Curricula for any language system: which words it knows, which samples it is given, what it is asked.

All are functions of the step. A system that predicts words asks its ``known`` what it may see of them
and what it is to say, :func:`every_word` unless it is told otherwise; which samples are drawn is no
concern of a system's ``forward`` at all. ``language/climb`` hosts any of them and sets all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from polymask import Batch, Step, UserError
from polymask.schedules import Schedule
from polymask_language.datasets.difficulty import load_difficulty
from polymask_language.tokenizers import TAGS

By = Literal["ids", "part-of-speech", "both"]
Order = Literal["unigram", "length", "source"]
Window = tuple[float, float]

SPOKEN_FIRST = (
    "aochildes",
    "bnc_spoken switchboard",
    "open_subtitles qed",
    "cbt children_stories",
    "simple_wikipedia",
    "wikipedia gutenberg",
)
"""Sources of BabyLM, from speech to children to encyclopaedias (the code's other order: books first)."""


class Known(Protocol):
    """What stands for words at a step."""

    def __call__(self, ids: Tensor, batch: Batch, step: Step) -> Tensor:
        """Ids ``[B, N]``, of the input or of what is to be predicted, to ids ``[B, N]``."""


def every_word(ids: Tensor, batch: Batch, step: Step) -> Tensor:
    """All words are known."""
    return ids


class Vocabulary:
    """Words that are too hard yet, behind the unknown token (CLIMB, Diehl Martinez et al. 2023).

    With g the schedule, V the size of the vocabulary and the part of speech by its number in
    :data:`polymask_language.tokenizers.TAGS`, a token is too hard

    * by ``ids``, if ``id > g V``: ids of a trained vocabulary nearly are ranks of frequency;
    * by ``part-of-speech``, if ``tag > 11 g``;
    * by ``both``, if ``tag V + id > 11 g V``.

    Special tokens, padding and the mask token among them, never are, wherever their ids lie. From g = 1 on
    every word is known, also those of the last part of speech, which ``both`` would leave out for ever.
    It is for ids of words, not of classes.

    Args:
        by: what makes a token hard.
        schedule: g, a share in [0, 1].
        vocabulary: how many ids there are.
        special_ids: ids that are no content.
        unknown_id: id that stands for words that are not known.
    """

    def __init__(
        self,
        *,
        by: By,
        schedule: Schedule,
        vocabulary: int,
        special_ids: Sequence[int],
        unknown_id: int | None,
    ) -> None:
        if by not in ("ids", "part-of-speech", "both"):
            raise UserError(f"words={by!r}: choose 'ids', 'part-of-speech' or 'both'")
        if unknown_id is None:
            raise UserError(
                "words that are not known yet stand behind an unknown token, and this vocabulary has none: "
                "train one (--data.vocab bpe), or leave its curriculum out (--words null)"
            )
        self.by, self.schedule, self.size = by, schedule, vocabulary
        self.special_ids, self.unknown_id = tuple(special_ids), unknown_id

    def hard(self, ids: Tensor, batch: Batch, step: Step) -> Tensor:
        """Which ids are those of words that are not known yet, bool ``[B, N]``.

        Raises:
            UserError: it goes by parts of speech, and the batch tells none.
        """
        share, last = self.schedule(step), len(TAGS) - 1
        if share >= 1:
            return torch.zeros_like(ids, dtype=torch.bool)
        if self.by == "ids":
            hard = ids > share * self.size
        elif "part_of_speech" not in batch:
            raise UserError(
                "these tokens come without parts of speech: add --data.tags true; in a system that makes "
                "rows of its own (prop) choose --words ids"
            )
        elif self.by == "part-of-speech":
            hard = batch["part_of_speech"] > share * last
        else:
            hard = batch["part_of_speech"] * self.size + ids > share * last * self.size
        for special in self.special_ids:
            hard = hard & (ids != special)
        return hard

    def __call__(self, ids: Tensor, batch: Batch, step: Step) -> Tensor:
        """Ids with those of unknown words replaced, int64 ``[B, N]``."""
        return torch.where(self.hard(ids, batch, step), self.unknown_id, ids)


class EasyFirst:
    """The easier part of the training samples, a growing one (CLIMB, Diehl Martinez et al. 2023).

    Samples whose difficulty is above the percentile of the schedule have no weight, all others the same; of
    those as hard as the percentile all are drawn, so that where many are equally hard (sources), they come
    all at once. When everything is drawn, plain epochs go on.

    Args:
        difficulty: ``[samples]``.
        schedule: share of the samples, in [0, 1].
    """

    def __init__(self, difficulty: Tensor, schedule: Schedule) -> None:
        self.difficulty, self.schedule = difficulty.double(), schedule
        self._sorted = self.difficulty.sort().values

    def cutoff(self, step: Step) -> float:
        """Difficulty of the hardest samples that are drawn: a percentile, with linear interpolation."""
        place = min(self.schedule(step), 1.0) * (len(self._sorted) - 1)
        low = int(place)
        high = min(low + 1, len(self._sorted) - 1)
        return float(torch.lerp(self._sorted[low], self._sorted[high], place - low))

    def __call__(self, step: Step) -> Tensor | None:
        """float32 ``[samples]``, 0 or 1; None once all are drawn."""
        if self.schedule(step) >= 1:
            return None
        return (self.difficulty <= self.cutoff(step)).float()


def difficulty_of(file: str | None, by: Order, sources: Sequence[str] = ()) -> Tensor:
    """How hard each training sample is, float64 ``[samples]``.

    Args:
        file: what the data set tells of its samples.
        by: ``unigram``, the perplexity of a sample under frequencies of tokens in the training data;
            ``length``, its tokens; ``source``, where it comes from.
        sources: classes of the data from easy to hard, those of one level in one string, for ``source``.

    Raises:
        UserError: the data does not tell, has samples of no class, or classes that ``sources`` does not name.
    """
    if by not in ("unigram", "length", "source"):
        raise UserError(f"order={by!r}: choose 'unigram', 'length' or 'source'")
    if file is None:
        raise UserError(
            "this data does not tell how hard its samples are: take a data set of language, or leave the "
            "curriculum over data out (--order null)"
        )
    found = load_difficulty(file)
    if by != "source":
        return torch.from_numpy(found[by]).double()
    if not len(found["classes"]):
        raise UserError(
            "this data does not tell where its samples come from: take folder:PATH with a folder for each "
            "source, or another --order"
        )
    label = torch.from_numpy(found["label"])
    if without := int((label < 0).sum()):
        raise UserError(
            f"{without} of {len(label)} training samples have no source, such as those of a folder "
            "`unlabeled`: move them into a folder named by their source, or choose another --order"
        )
    level = {name: k for k, names in enumerate(sources, 1) for name in names.split()}
    if unknown := [str(name) for name in found["classes"] if name not in level]:
        raise UserError(
            f"sources does not say how hard {', '.join(unknown)} are: name them all from easy to hard, those "
            "of one level in one string"
        )
    levels = torch.tensor([level[str(name)] for name in found["classes"]], dtype=torch.float64)
    return levels[label]


class Windows:
    """When each unit of a loss counts: shares of the run, both ends included.

    Args:
        windows: by unit; None for units that never count.

    Raises:
        UserError: one is no window, or a part of the run has no unit.
    """

    def __init__(self, windows: Mapping[str, Window | None]) -> None:
        self.windows: dict[str, Window] = {
            unit: (window[0], window[1]) for unit, window in windows.items() if window is not None
        }
        until = 0.0
        for start, end in sorted(self.windows.values()):
            if not 0 <= start < end <= 1:
                raise UserError(f"a window is two shares of the run, 0 <= from < to <= 1, got {(start, end)}")
            if start > until:
                raise UserError(f"nothing is trained between {until} and {start} of the run: widen a window")
            until = max(until, end)
        if until < 1:
            raise UserError(f"nothing is trained from {until} of the run on: widen a window")

    def active(self, unit: str, step: Step) -> bool:
        """Whether a unit counts at a step."""
        if unit not in self.windows:
            return False
        start, end = self.windows[unit]
        return start <= step.progress <= end


def warming(module: nn.Module, taken: set[int], window: Window) -> list[dict[str, Any]]:
    """Parameters of a module in groups whose learning rate rises over the first tenth of a window."""
    start, end = window

    def scale(step: Step) -> float:
        done = step.index + 1 - start * step.total
        return min(max(done / max(0.1 * (end - start) * step.total, 1), 0.0), 1.0)

    left = [p for p in module.parameters() if p.requires_grad and id(p) not in taken]
    return [{"params": left, "lr_scale": scale}] if left else []
