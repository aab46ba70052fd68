"""A folder of text files."""

from __future__ import annotations

from pathlib import Path

from polymask.data.folders import read_folder
from polymask_language.datasets.base import Corpus, read_text

ENDINGS = (".txt", ".md", ".rst", ".text")


def folder(*, source: str) -> Corpus:
    """Text files at any depth of a folder: txt, md, rst; UTF-8. Each is a document.

    Where every file lies in a subfolder, the subfolders right below the folder are the classes; where
    one lies in the folder itself, there are no labels. A subfolder ``train`` holds the training files,
    beside it ``test``, ``val``, ``valid`` or ``validation`` those to test on; without, a fixed share of
    each class is held out. Links are followed, hidden files and folders ignored. Files that are empty,
    no text or no UTF-8 are skipped and listed in ``skipped``.

    Args:
        source: the folder (``folder:PATH``).
    """
    found = read_folder(source, ENDINGS, "text files", lambda path: read_text(path.read_bytes()))
    return Corpus(
        texts=found.looks,
        labels=None if found.labels is None else found.labels.tolist(),
        classes=found.classes,
        test=None if found.test is None else found.test.tolist(),
        names=found.names,
        skipped=found.skipped,
        title=f"the folder {found.root.absolute()}",
    )


def example_source(folder: Path) -> str:
    """Two classes of a few files."""
    for name, words in (("fruit", "apple pear plum"), ("tools", "saw hammer drill")):
        (folder / name).mkdir()
        for i in range(4):
            text = " ".join(f"the {word} number {i} lies beside another {word}." for word in words.split())
            (folder / name / f"{i}.txt").write_text(text)
    return str(folder)
