"""A folder of text files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from polymask import UserError
from polymask_language.datasets.base import Corpus, Preparation, Skipped, TextDataset, read_text

ENDINGS = (".txt", ".md", ".rst", ".text")

_TEST = ("test", "val", "valid", "validation")


class Folder(TextDataset):
    """Text files at any depth of a folder: txt, md, rst; UTF-8. Each is a document.

    Where every file lies in a subfolder, the subfolders right below the folder are the classes; where
    one lies in the folder itself, there are no labels. A subfolder ``train`` holds the training files,
    beside it ``test``, ``val``, ``valid`` or ``validation`` those to test on; without, a fixed share of
    each class is held out. Links are followed, hidden files and folders ignored. Files that are empty,
    no text or no UTF-8 are skipped and listed in ``skipped``.

    Args:
        source: the folder (``folder:PATH``).
        vocab: ``bpe`` or ``wordpiece`` to train one on the files; or a path, or a name on the hub.
        vocab_size: ids of a trained vocabulary.
        lower: a trained vocabulary makes capital letters small.
        length: most tokens of a sequence; longer files are cut into several.
        pack: several documents in one sequence; there are no labels then.
        tags: tell each word's part of speech, by a lexicon of English.
        test: share of each class to hold out where there is no folder for it.
        limit: at most so many samples of each split.
    """

    def __init__(
        self,
        *,
        source: str,
        vocab: str = "bpe",
        vocab_size: int = 8192,
        lower: bool = True,
        length: int = 128,
        pack: bool = False,
        tags: bool = False,
        test: float = 0.1,
        limit: int | None = None,
    ) -> None:
        super().__init__(
            read_folder(source),
            Preparation(
                vocab=vocab,
                vocab_size=vocab_size,
                lower=lower,
                length=length,
                pack=pack,
                tags=tags,
                test=test,
                limit=limit,
            ),
        )

    @staticmethod
    def example_source(folder: Path) -> str:
        """A small stand-in: two classes of a few files."""
        for name, words in (("fruit", "apple pear plum"), ("tools", "saw hammer drill")):
            (folder / name).mkdir()
            for i in range(4):
                text = " ".join(
                    f"the {word} number {i} lies beside another {word}." for word in words.split()
                )
                (folder / name / f"{i}.txt").write_text(text)
        return str(folder)


def read_folder(source: str) -> Corpus:
    """The documents of a folder.

    Raises:
        UserError: there is no such folder.
    """
    root = Path(source).expanduser()
    if not root.is_dir():
        raise UserError(f"folder:{source}: there is no folder {root.absolute()}")
    skipped: Skipped = []
    folders = {p.name.lower(): p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")}
    places, test = [Path()], None
    if "train" in folders:
        held = next((folders[name] for name in _TEST if name in folders), None)
        places = [Path(folders["train"]), *([] if held is None else [Path(held)])]
    texts: list[str] = []
    names: list[str | None] = []
    sides: list[bool] = []
    for number, place in enumerate(places):
        for path in sorted(_walk(root / place, skipped)):
            name = path.relative_to(root).as_posix()
            try:
                if path.suffix.lower() not in ENDINGS:
                    raise UserError("no text by its ending")
                texts.append(read_text(path.read_bytes()))
            except (OSError, UserError) as error:
                skipped.append((name, str(error)))
                continue
            inside = path.relative_to(root / place).parts
            names.append(inside[0] if len(inside) > 1 else None)
            sides.append(number == 1)
    if len(places) == 2:
        test = sides
    classes = sorted({name for name in names if name is not None})
    labels = None if not classes or None in names else [classes.index(str(name)) for name in names]
    return Corpus(
        texts=texts,
        labels=labels,
        classes=classes if labels else None,
        test=test,
        skipped=skipped,
        title=f"text files ({', '.join(ENDINGS)}) of {root.absolute()}",
    )


def _walk(root: Path, skipped: Skipped) -> Iterator[Path]:
    """Files under a folder; hidden ones and endless links left out."""

    def failed(error: OSError) -> None:
        skipped.append((str(error.filename), error.strerror or str(error)))

    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=failed):
        real = Path(os.path.realpath(folder))
        subfolders[:] = [
            s
            for s in subfolders
            if not s.startswith(".")
            and not (
                os.path.islink(os.path.join(folder, s))
                and real.is_relative_to(os.path.realpath(os.path.join(folder, s)))
            )
        ]
        yield from (Path(folder, name) for name in files if not name.startswith("."))
