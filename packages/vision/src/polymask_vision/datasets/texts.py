"""Captions of images and clips: where readers keep them, and their words as entries of samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from polymask import Tokens, UserError, default_registry
from polymask.data import Source, Split, Splits, Texts
from polymask.data.splits import Names

TOKENIZER = "language/tokens"
"""The part that makes samples of captions. Its package is not one that this one needs."""

IDENTITY, PLANTED = "identity", "planted"
"""Entries of samples: which captions say the same, int64 ``[]``; which words are false, bool ``[L]``."""

RESPONSE, TOPIC, HAS_IMAGE = "response", "topic", "has_image"
"""Entries of samples: which words are a response to the others, bool ``[L]``; to a question about what, int64
``[]``, -1 for none; whether there is an image, bool ``[]``."""


@runtime_checkable
class Captioned(Protocol):
    """Images with a few words about each."""

    def caption(self, index: int) -> str:
        """What an image shows; empty where nobody said."""


@runtime_checkable
class Wordings(Protocol):
    """Samples with several captions each, of which training draws one each time."""

    def wordings(self, index: int) -> Sequence[str]:
        """What a sample shows, said in several ways, the first as ``caption``."""


class SeveralCaptions:
    """Images or clips by number, with none, one or several captions each.

    Attributes:
        captions: of each.
    """

    captions: Sequence[Sequence[str]]

    def caption(self, index: int) -> str:
        """The first; empty where there is none."""
        return "".join(self.captions[index][:1])

    def wordings(self, index: int) -> Sequence[str]:
        """All of one."""
        return self.captions[index]


@runtime_checkable
class Planted(Protocol):
    """Images of which some have captions that were made false in one place."""

    def planted(self, index: int) -> tuple[int, int] | None:
        """From which character to which, and None of a caption that is true."""


@runtime_checkable
class Answered(Protocol):
    """Images with questions about them and answers; some samples may be texts alone.

    Attributes:
        topics: what questions are about.
    """

    topics: Sequence[str]

    def response(self, index: int) -> tuple[int, int]:
        """From which character to which the text of an image answers the rest."""

    def topic(self, index: int) -> int:
        """Number of what is asked; -1 where nothing is."""

    def has_image(self, index: int) -> bool:
        """Whether the text is about an image, and not about itself."""


class Captions:
    """The words of captions, as entries ``text`` and ``word`` of samples, int64 ``[L]``.

    Of several captions of one sample, training draws one each time it is read, else the first is taken.

    Samples also hold ``identity``, int64 ``[]``, one number for captions that say the same; and where
    captions were made false on purpose ``planted``, bool ``[L]``, True on the words that are. Where texts are
    questions and answers they hold ``response``, bool ``[L]``, True on the answer and on the end of the text,
    ``topic`` and ``has_image``.

    Args:
        found: what a reader found.
        vocab: which vocabulary.
        vocab_size: ids of a trained one, at most.
        length: tokens of a caption, at most.

    Attributes:
        found: the same, without images that have no caption.
        texts: the captions as ids.

    Raises:
        UserError: polymask-language is not installed, or there are no captions.
    """

    def __init__(self, found: Splits[Any], vocab: str, *, vocab_size: int, length: int) -> None:
        tokenizer: Any = default_registry().get("tokenizers", TOKENIZER)
        if not isinstance(found.train.source, Captioned):
            raise UserError(
                "text_vocab asks for the words of captions, and these data have none: give a folder with "
                "captions.csv, captions.jsonl or a .txt beside each file, hf: or wds: with captions, such as "
                "stamps, persons or moving-digits"
            )
        sides, skipped = dict[str, Split[Any]](), []
        for name in ("train", "test"):
            split: Split[Any] = getattr(found, name)
            said = torch.tensor([bool(x.strip()) for x in captions_of(split)], dtype=torch.bool)
            skipped += [(one, "it has no caption") for one in split.at(~said).names()]
            sides[name] = split.at(said)
        if not len(sides["train"]):
            raise UserError("none of the training samples has a caption")
        self.found = dataclasses.replace(
            found, train=sides["train"], test=sides["test"], skipped=[*found.skipped, *skipped]
        )
        train, test = ([text for own in _captions(split) for text in own] for split in sides.values())
        every = list(dict.fromkeys([*train, *test]))
        self.texts: Texts = tokenizer.of_texts(
            every, train, vocab=vocab, vocab_size=vocab_size, length=length
        )
        # -1 is no id: without a token that ends texts, none is learned
        self._end = -1 if self.texts.facts["end_id"] is None else int(self.texts.facts["end_id"])
        self._every, self._numbers = Names(every), {text: i for i, text in enumerate(every)}

    def __len__(self) -> int:
        return len(self._every)

    def entries(self, source: Any, number: int, draw: bool = False) -> dict[str, Tensor]:
        """Those of one sample; one of its captions is drawn from torch's generator, or is the first."""
        said = _captions_at(source, number)
        which = self._numbers[said[int(torch.randint(len(said), ())) if draw else 0]]
        words = {**self.texts[which], IDENTITY: torch.tensor(which)}
        if isinstance(source, Planted):
            where = source.planted(number)
            false = torch.zeros_like(words["text"], dtype=torch.bool)
            words[PLANTED] = false if where is None else self.texts.within(which, *where)
        if isinstance(source, Answered):
            answer = self.texts.within(which, *source.response(number))
            words[RESPONSE] = answer | (words["text"] == self._end)
            words[TOPIC] = torch.tensor(source.topic(number))
            words[HAS_IMAGE] = torch.tensor(source.has_image(number))
        return words

    def describe(self) -> dict[str, str]:
        """What a person is told of them."""
        cut = f", {self.texts.cut:,} lose their end" if self.texts.cut else ""
        vocabulary = f"{self.texts.facts['vocabulary']:,} ids"
        return {"captions": f"{len(self):,} that differ{cut}, in {vocabulary}"}


def captions_of(split: Split[Source]) -> list[str]:
    """The caption of each image of a split whose reader has them."""
    source: Any = split.source
    return [source.caption(number) for number in split.index.tolist()]


def _captions(split: Split[Source]) -> list[Sequence[str]]:
    """All captions of each sample of a split."""
    return [_captions_at(split.source, number) for number in split.index.tolist()]


def _captions_at(source: Any, number: int) -> Sequence[str]:
    said: Sequence[str] = (
        source.wordings(number) if isinstance(source, Wordings) else [source.caption(number)]
    )
    return said


def words_of(batch: Mapping[str, Tensor], tokenizer: Any, system: str) -> Tokens:
    """Tokens of the captions of a batch.

    Raises:
        UserError: its samples have none.
    """
    if tokenizer.key not in batch:
        raise UserError(
            f"{system} matches samples with captions, and those of this data have none: use data that has "
            "captions, with --data.text_vocab bpe"
        )
    tokens: Tokens = tokenizer(batch)
    return tokens
