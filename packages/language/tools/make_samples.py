"""Makes the English that comes with the package, out of WordNet 3.0 as Debian has it.

    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb wordnet
    python packages/language/tools/make_samples.py wordnet/usr/share/wordnet

Writes what ``polymask_language.datasets.glosses`` and ``polymask_language.speech`` read: the definition of
each synonym set with its words and the number of its topic, in the order of the files; and the verbs,
adjectives and adverbs among single words, by how often each sense occurs in text that was annotated.
"""

from __future__ import annotations

import collections
import lzma
import sys
from pathlib import Path

from polymask_language import speech
from polymask_language.datasets.glosses import read_wordnet
from polymask_language.tokenizers import TAGS

OUT = Path(__file__).parents[1] / "src/polymask_language/samples"
KINDS = {"1": "NOUN", "2": "VERB", "3": "ADJ", "4": "ADV", "5": "ADJ"}
FILES = {"noun": "NOUN", "verb": "VERB", "adj": "ADJ", "adv": "ADV"}
ORDER = list(FILES.values())


def main() -> None:
    """Write both files."""
    root = Path(sys.argv[1])
    glosses = read_wordnet(root, examples=False)
    write(OUT / "glosses.txt.xz", "\n".join(f"{g.topic}\t{'; '.join(g.words)}\t{g.text}" for g in glosses))
    best = lexicon(root)
    kept = {name: sorted(w for w, kind in best.items() if kind == name) for name in ORDER[1:]}
    write(speech.LEXICON, "\n".join(f"{name} {' '.join(words)}" for name, words in kept.items()))
    # nouns that would be taken for something else by their ending
    speech.lexicon.cache_clear()
    noun = TAGS.index("NOUN")
    kept["NOUN"] = sorted(w for w, kind in best.items() if kind == "NOUN" and speech.tag(w) != noun)
    write(speech.LEXICON, "\n".join(f"{name} {' '.join(words)}" for name, words in kept.items()))


def lexicon(root: Path) -> dict[str, str]:
    """The part of speech that each single word has most often."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for file, kind in FILES.items():
        for line in (root / f"index.{file}").read_text().splitlines():
            lemma, _, senses = line.split()[:3] if not line.startswith(" ") else ("", "", "")
            if lemma and "_" not in lemma:
                counts[lemma][kind] += 1e-3 * int(senses)  # type: ignore[assignment]
    for line in (root / "cntlist.rev").read_text().splitlines():
        key, _, count = line.split()
        lemma, _, sense = key.partition("%")
        if "_" not in lemma:
            counts[lemma][KINDS[sense[0]]] += int(count)
    best = {w: max(ORDER, key=lambda kind: (found[kind], -ORDER.index(kind))) for w, found in counts.items()}
    for file, kind in FILES.items():
        for line in (root / f"{file}.exc").read_text().splitlines():
            inflected, base = line.split()[:2]
            if "_" not in inflected and best.get(base) == kind:
                best.setdefault(inflected, kind)
    return best


def write(path: Path, text: str) -> None:
    """One compressed file, the same for the same text."""
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{path}: {text.count(chr(10)) + 1} lines, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
