"""Pairs of definitions, one pleasant and one unpleasant, in which it is known what decides."""

from __future__ import annotations

import re
from collections import defaultdict

from polymask_language.datasets.exchanges import Exchanges, Spans
from polymask_language.datasets.glosses import TOPICS, read_built_in

_PLEASANT = """
good better best excellent pleasant pleasing delightful delicious happy joyful cheerful beautiful lovely
attractive useful valuable beneficial favorable successful success honest generous friendly loving brave
noble wise gentle healthy safe pure perfect superior admirable worthy virtuous pleasure delight joy love
beauty happiness praise approval enjoyment comfort comfortable skillful gifted sweet fragrant fresh courage
hope
"""
_UNPLEASANT = """
bad worse worst terrible unpleasant disagreeable painful sad unhappy miserable ugly offensive repulsive
useless worthless harmful unfavorable failure dishonest cruel hostile hateful cowardly wicked foolish
violent sick dangerous impure defective inferior evil contemptible shameful pain sorrow fear hatred disgust
misery suffering grief anger contempt disapproval discomfort clumsy stupid poisonous foul stale death damage
injury disease crime destroy
"""

PLEASANT, UNPLEASANT = (frozenset(words.split()) for words in (_PLEASANT, _UNPLEASANT))

_WORD = re.compile(r"[^\W\d_]+")


def sentiment() -> Exchanges:
    """Definitions of WordNet in pairs: one that has pleasant words is preferred to one that has unpleasant.

    The prompt is their topic (``noun.person:``), one of WordNet's 45. Which words are pleasant or not is a
    list of about sixty each (:data:`PLEASANT`, :data:`UNPLEASANT`); they alone decide, so their tokens are
    ``decisive``. Definitions that have words of both lists are left out, every other is in one pair at
    most, in the order of WordNet. The text comes with the package.
    """
    found: dict[int, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for gloss in read_built_in():
        said = _WORD.findall(gloss.text.lower())
        sides = [not words.isdisjoint(said) for words in (PLEASANT, UNPLEASANT)]
        if sum(sides) == 1:
            found[gloss.topic][sides.index(True)].append(gloss.text)
    pairs = [
        (f"{TOPICS[topic]}:", *pair) for topic in sorted(found) for pair in zip(*found[topic], strict=False)
    ]
    prompts, responses, rejected = zip(*pairs, strict=True)
    return Exchanges(
        prompts=prompts,
        responses=responses,
        rejected=rejected,
        decisive=(
            [spans_of(text, PLEASANT) for text in responses],
            [spans_of(text, UNPLEASANT) for text in rejected],
        ),
        title="WordNet's pairs",
    )


def spans_of(text: str, words: frozenset[str]) -> Spans:
    """Where words of a list stand in a text."""
    return [match.span() for match in _WORD.finditer(text) if match[0].lower() in words]
