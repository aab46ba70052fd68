"""Titles and descriptions of Debian's packages."""

from __future__ import annotations

import re

from polymask import UserError
from polymask.data import class_names, class_numbers
from polymask.data.debian import run
from polymask_language.datasets.base import Corpus

_FIELD = re.compile(r"^([A-Za-z0-9-]+):((?: .*)?(?:\n .*)*)", re.MULTILINE)

_HELP = "It takes a Debian system on which 'apt-get -o Acquire::Languages=en update' has been run"


def titles() -> Corpus:
    """Descriptions of the packages that this system's apt knows, each answering its title.

    The index is the one that ``apt-get update`` leaves, of about 60,000 packages on Debian. The documents
    are the long descriptions, the queries the titles ("tool to draw graphs"), the classes the sections
    of the archive. What two packages share word for word is one document.
    """
    try:
        index = run("apt-cache", "dumpavail", folder="/")
        # Docker's images switch translations off, which hides those that are there
        asked = ("apt-get", "-o", "Acquire::Languages=en", "indextargets")
        files = run(*asked, "--format", "$(FILENAME)", "Created-By: Translations", folder="/")
        english = [name for name in files.split("\n") if "-en" in name]
        descriptions = [run("/usr/lib/apt/apt-helper", "cat-file", name, folder="/") for name in english]
    except OSError as error:
        raise UserError(f"titles: the index of packages cannot be read: {error}. {_HELP}") from error
    corpus = read_index(index, *descriptions)
    if len(corpus.texts) < 100:
        raise UserError(f"titles: apt knows {len(corpus.texts)} long descriptions. {_HELP}")
    return corpus


def read_index(index: str, *descriptions: str) -> Corpus:
    """The long descriptions of packages.

    Args:
        index: paragraphs of fields, as ``apt-cache dumpavail`` prints.
        descriptions: the same of apt's files of translations, where the index leaves descriptions out.
    """
    sections: dict[str, str] = {}
    found: dict[str, tuple[str, str]] = {}
    for entries in (index, *descriptions):
        for entry in entries.split("\n\n"):
            fields: dict[str, str] = dict(_FIELD.findall(entry))
            digest = fields.get("Description-md5", fields.get("Package", ""))
            if "Section" in fields:
                sections[digest] = fields["Section"].rpartition("/")[2].strip()
            described = fields.get("Description-en") or fields.get("Description") or ""
            title, _, rest = described.strip().partition("\n")
            text = " ".join(word for word in rest.split() if word != ".")
            if text and digest in sections:
                found[text] = (title.strip(), sections[digest])
    classes = class_names(section for _, section in found.values())
    return Corpus(
        texts=list(found),
        labels=class_numbers((section for _, section in found.values()), classes).tolist(),
        classes=classes,
        queries=[title for title, _ in found.values()],
        title="the index of packages",
    )
