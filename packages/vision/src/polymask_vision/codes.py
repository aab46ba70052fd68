"""Which of a number of codes each patch is nearest to, and how the codes are found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Tokens, UserError
from polymask.codebooks import Codebook, Units, fit, load
from polymask.data import Dataset, collate
from polymask.protocols import Tokenizer
from polymask.types import Count, Fact

FEATURES = "pixels"


class Codes(nn.Module):
    """The number of the code nearest to the pixels of each patch.

    Args:
        in_dim: numbers per token, from the tokenizer.
        file: codebook, as ``polymask recipe vision/cae`` or :func:`fit_codes` make it. ``random:K`` takes K
            random directions in its place, which needs no data.

    Raises:
        UserError: no file, or one that holds something else.
    """

    def __init__(self, *, in_dim: Fact[Count] = 768, file: str | None = None) -> None:
        super().__init__()
        if file is None:
            raise UserError(
                "codes of what? give --target.file CODEBOOK, or random:512 for codes that are not fitted; "
                "polymask recipe vision/cae fits a codebook to the data and trains with it"
            )
        self.book = _random(file, in_dim) if file.startswith("random:") else _read(file, in_dim)
        self.dim = self.book.codes

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """int64 ``[B, N]``."""
        ids: Tensor = self.book(tokens.values)[..., 0]
        return ids

    def invert(self, prediction: Tensor, tokens: Tokens) -> tuple[Tensor, str]:
        """Pixels of the likeliest code, given logits ``[B, N, dim]``."""
        return self.book.decode(prediction.argmax(-1)[..., None]), "the likeliest code"


def fit_codes(
    file: Path, data: Dataset, tokenizer: Tokenizer, *, codes: int, patches: int = 200_000, seed: int = 0
) -> Path:
    """Fit a codebook to patches of training images by k-means, and write it.

    Args:
        file: to write.
        data: whose training split is read, without augmentation, in random order until there are enough.
        tokenizer: what cuts patches.
        codes: how many.
        patches: at most so many are fit to.
        seed: of the order and of k-means.

    Raises:
        UserError: fewer patches than codes.
    """
    samples, found, count = data.split("train"), [], 0
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
    for start in range(0, len(order), 64):
        values = tokenizer(collate([samples[i] for i in order[start : start + 64]])).values
        found.append(values.flatten(0, 1))
        count += len(found[-1])
        if count >= patches:
            break
    # one start: of 20, the default, each takes as long, and patches are many
    book = fit(torch.cat(found)[:patches], codes=codes, seed=seed, starts=1)
    return Units(FEATURES, (None,), (book,)).save(file)


def _read(file: str, in_dim: int) -> Codebook:
    units = load(file)
    book = units.books[0]
    width = book.centers.shape[2]
    if units.features != FEATURES or len(units.books) > 1 or book.stages > 1 or width != in_dim:
        raise UserError(
            f"{file} holds {len(units.books)} codebooks in {book.stages} stages of {units.features} of width "
            f"{width}, and codes of these patches are of {FEATURES} of width {in_dim}: fit a codebook to "
            "patches of this size, or change --tokenizer.patch_size"
        )
    return book


def _random(file: str, in_dim: int) -> Codebook:
    count = file.removeprefix("random:")
    if not count.isdigit() or int(count) < 2:
        raise UserError(f"file={file!r}: random:K takes a number of codes, 2 or more, or give a file")
    # of one length, so that the direction of a patch decides
    centers = torch.randn(1, int(count), in_dim, generator=torch.Generator().manual_seed(0))
    return Codebook(F.normalize(centers, dim=-1), torch.zeros(in_dim), torch.ones(in_dim))
