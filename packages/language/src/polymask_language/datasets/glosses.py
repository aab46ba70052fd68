"""Definitions of WordNet."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from polymask import UserError
from polymask.data.cache import cache_folder
from polymask.data.debian import unpacked
from polymask_language.datasets.base import Corpus

BUILT_IN = Path(__file__).parents[1] / "samples" / "glosses.txt.xz"
PACKAGE = "wordnet-base"

TOPICS = [
    "adj.all",
    "adj.pert",
    "adv.all",
    "noun.Tops",
    "noun.act",
    "noun.animal",
    "noun.artifact",
    "noun.attribute",
    "noun.body",
    "noun.cognition",
    "noun.communication",
    "noun.event",
    "noun.feeling",
    "noun.food",
    "noun.group",
    "noun.location",
    "noun.motive",
    "noun.object",
    "noun.person",
    "noun.phenomenon",
    "noun.plant",
    "noun.possession",
    "noun.process",
    "noun.quantity",
    "noun.relation",
    "noun.shape",
    "noun.state",
    "noun.substance",
    "noun.time",
    "verb.body",
    "verb.change",
    "verb.cognition",
    "verb.communication",
    "verb.competition",
    "verb.consumption",
    "verb.contact",
    "verb.creation",
    "verb.emotion",
    "verb.motion",
    "verb.perception",
    "verb.possession",
    "verb.social",
    "verb.stative",
    "verb.weather",
    "adj.ppl",
]
"""Lexicographers' files of WordNet 3.0, by number."""

CLASSES = ("noun", "verb", "adj", "adv")


@dataclass(frozen=True)
class Gloss:
    """A synonym set.

    Args:
        topic: number of its lexicographer's file.
        words: its words.
        text: its definition.
    """

    topic: int
    words: tuple[str, ...]
    text: str


def glosses(*, label: Literal["topic", "part-of-speech"] = "topic", examples: bool = False) -> Corpus:
    """The 117,659 definitions of WordNet 3.0 (Princeton University 2006), one of each synonym set.

    They come with the package; nothing is downloaded. Their classes are the 45 topics that
    lexicographers sorted them by, or four parts of speech. Each answers the words it defines, for retrieval:
    what ``disaster`` means. Examples of use are in Debian's package ``wordnet-base`` alone, which is
    fetched where they are asked for.

    Args:
        label: classes: ``topic`` or ``part-of-speech``.
        examples: have examples of use follow the definitions.
    """
    if label not in ("topic", "part-of-speech"):
        raise UserError(f"label={label!r}: choose 'topic' or 'part-of-speech'")
    found = list(_fetched() if examples else read_built_in())
    kinds = [TOPICS[g.topic].partition(".")[0] for g in found]
    return Corpus(
        texts=[g.text for g in found],
        labels=[g.topic for g in found] if label == "topic" else [CLASSES.index(k) for k in kinds],
        classes=TOPICS if label == "topic" else CLASSES,
        queries=[", ".join(g.words) for g in found],
        title="WordNet",
    )


def read_built_in() -> Iterator[Gloss]:
    """The definitions that come with the package."""
    for line in lzma.decompress(BUILT_IN.read_bytes()).decode().splitlines():
        topic, words, text = line.split("\t")
        yield Gloss(int(topic), tuple(words.split("; ")), text)


def read_wordnet(folder: Path, *, examples: bool) -> Iterator[Gloss]:
    """The synonym sets of WordNet's data files, in their order.

    Args:
        folder: where ``data.noun``, ``data.verb``, ``data.adj`` and ``data.adv`` are.
        examples: keep the examples of use that follow some definitions.

    Raises:
        UserError: a file is missing or damaged.
    """
    for kind in CLASSES:
        path = folder / f"data.{kind}"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            for line in lines:
                if line.startswith(" "):  # the licence, at the head of each file
                    continue
                head, _, text = line.partition(" | ")
                fields = head.split()
                words = (fields[4 + 2 * i].partition("(")[0] for i in range(int(fields[3], 16)))
                text = text.strip() if examples else text.partition('; "')[0].strip()
                yield Gloss(int(fields[1]), tuple(w.replace("_", " ") for w in words), text)
        except (OSError, ValueError, IndexError) as error:
            raise UserError(f"{path} is no data file of WordNet: {error}") from error


def _fetched() -> Iterator[Gloss]:
    return read_wordnet(unpacked("usr/share/wordnet", PACKAGE, cache=cache_folder(PACKAGE)), examples=True)
