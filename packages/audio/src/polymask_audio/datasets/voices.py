"""Five voices that say the same prompts: their labels, and what is held out to test each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from polymask import UserError
from polymask.data import Skipped, Splits, class_names, class_numbers, held_out, whole
from polymask_audio.datasets.recordings import Recordings

SPEAKERS = {"en": "Allison", "es": "Allison", "fr": "June", "it": "Carlo", "ru": "Ivrvoice"}
"""Who speaks each language; English and Spanish are one person."""

GROUPS = ("letters", "phonetic")
"""Folders of words that sound alike across languages: letters in most, the phonetic alphabet in all but
Italian, which has towns. Those in ``digits`` are translated."""

MUSIC = "music"

Label = Literal["word", "language", "speaker", "kind"]


@dataclass(frozen=True)
class Spoken:
    """One recording: the language it is in, and what is said, e.g. ``digits/7``; of music, the piece."""

    voice: str
    name: str


def by_label(
    recordings: Recordings,
    spoken: Sequence[Spoken],
    label: Label,
    groups: Sequence[str],
    test_voice: str,
    test: float,
    skipped: Skipped,
) -> Splits[Recordings]:
    """Prompts divided for one kind of label.

    Args:
        recordings: all there are.
        spoken: what each is.
        label: what the classes are. ``word``: what is said, tested on a voice that training lacks.
            ``language``, ``speaker``: tested on prompts that training lacks. ``kind``: speech or music,
            tested on prompts and pieces that training lacks.
        groups: folders of the words.
        test_voice: language held out of ``word``, and with it other languages of the same speaker.
        test: share of the prompts held out of the others.
        skipped: what was left out, with the reason.
    """
    if label not in get_args(Label):
        raise UserError(f"label={label!r}: choose one of {', '.join(get_args(Label))}")
    if label == "word":
        names, keep, held = _words(spoken, groups, test_voice)
    else:
        names = [_class(one, label) for one in spoken]
        music = torch.tensor([one.voice == MUSIC for one in spoken])
        keep = ~music | (label == "kind")
        held = held_out([one.name for one in spoken], music.long(), test)
    numbers = [i for i, kept in enumerate(keep.tolist()) if kept]
    classes = class_names(names[i] for i in numbers)
    prompts = whole(recordings.take(numbers), class_numbers((names[i] for i in numbers), classes))
    return Splits(
        train=prompts.at(~held[keep]),
        test=prompts.at(held[keep]),
        classes=classes,
        skipped=skipped,
        suggested={"speech": ("speech",)} if label == "kind" else {},
    )


def _class(one: Spoken, label: Label) -> str:
    if label == "kind":
        return MUSIC if one.voice == MUSIC else "speech"
    return SPEAKERS.get(one.voice, one.voice) if label == "speaker" else one.voice


def _words(
    spoken: Sequence[Spoken], groups: Sequence[str], test_voice: str
) -> tuple[list[str], Tensor, Tensor]:
    """The word of each recording, which are of use, and which are said by the voice held out.

    Raises:
        UserError: no such voice, or no word that another speaker says too.
    """
    said = {voice: {one.name for one in spoken if one.voice == voice} for voice in SPEAKERS}
    if not said.get(test_voice):
        there = ", ".join(voice for voice, names in said.items() if names) or "none"
        raise UserError(f"there is no voice {test_voice!r} to test on; there are {there}")
    others = [voice for voice in said if SPEAKERS[voice] != SPEAKERS[test_voice]]
    both = said[test_voice] & {name for voice in others for name in said[voice]}
    words = {name for name in both if name.partition("/")[0] in groups}
    if not words:
        raise UserError(f"no word of {', '.join(groups)} is said by {test_voice!r} and by another speaker")
    of_use = {test_voice, *others}
    keep = torch.tensor([one.name in words and one.voice in of_use for one in spoken])
    held = torch.tensor([one.voice == test_voice for one in spoken])
    return [one.name for one in spoken], keep, held
