"""Parts of speech of English words by a lexicon: what each is most often, whatever stands around it."""

from __future__ import annotations

import functools
import lzma
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from polymask_language.tokenizers import TAGS

LEXICON = Path(__file__).parent / "samples" / "lexicon.txt.xz"

_CLOSED = {
    "PRON": "i me my mine myself you your yours yourself he him his himself she her hers herself it its "
    "itself we us our ours ourselves they them their theirs themselves who whom whose what which someone "
    "somebody something anyone anybody anything everyone everybody everything nobody nothing oneself",
    "DET": "a an the this that these those each every either neither some any no all both such another",
    "ADP": "of in to for with on at by from into about as through after over between out against during "
    "without before under around among within upon along across behind toward towards beneath beside "
    "besides beyond near off above below since until till per via onto inside outside throughout despite "
    "except like unlike",
    "CONJ": "and or but nor yet so because if although though while whereas unless whether than",
    "PRT": "not n't 's ' up down away",
    "VERB": "be am is are was were been being have has had having do does did doing done will would shall "
    "should can could may might must ought",
    "NUM": "zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty "
    "sixty seventy eighty ninety hundred thousand million billion",
    "ADV": "very too also there here when where how why then now only just even never always often more most",
}

_ENDINGS = (
    ("ies", "y"),
    ("es", ""),
    ("s", ""),
    ("ied", "y"),
    ("ed", "e"),
    ("ed", ""),
    ("ing", "e"),
    ("ing", ""),
)
_COMPARED = (("ier", "y"), ("iest", "y"), ("er", "e"), ("er", ""), ("est", "e"), ("est", ""))


def tag(word: str) -> int:
    """Number in :data:`polymask_language.tokenizers.TAGS` of a word's part of speech.

    Function words come from a list, verbs, adjectives and adverbs from WordNet's sense counts, with
    regular endings taken off; what is not known there is a noun.
    It is no tagger: it does not look at the words around.
    """
    word = word.lower()
    known = lexicon()
    if word in known:
        return TAGS.index(known[word])
    if not any(c.isalnum() for c in word):
        return TAGS.index(".")
    if any(unicodedata.category(c) == "Nd" for c in word):
        return TAGS.index("NUM")
    for base in _bases(word, _ENDINGS):
        if known.get(base) == "VERB":
            return TAGS.index("VERB")
    for base in _bases(word, _COMPARED):
        if known.get(base) == "ADJ":
            return TAGS.index("ADJ")
    return TAGS.index("NOUN")


@functools.cache
def lexicon() -> dict[str, str]:
    """Words that :func:`tag` would not know by rule, and their tags."""
    known: dict[str, str] = {}
    for line in lzma.decompress(LEXICON.read_bytes()).decode().splitlines():
        name, *words = line.split()
        known.update(dict.fromkeys(words, name))
    for name, closed in _CLOSED.items():
        known.update(dict.fromkeys(closed.split(), name))
    return known


def _bases(word: str, endings: tuple[tuple[str, str], ...]) -> Iterator[str]:
    """What a word may be without its ending, a doubled consonant made single."""
    for ending, instead in endings:
        stem = word[: -len(ending)]
        if word.endswith(ending) and len(stem) > 1:
            yield stem + instead
            if len(stem) > 2 and stem[-1] == stem[-2] and not instead:
                yield stem[:-1]
