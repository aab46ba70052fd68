"""Which of a number of codes each patch is nearest to, and how the codes are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Mask, Tokens, UserError
from polymask.codebooks import Codebook, Units, fit, load
from polymask.config import RunConfig, relative_to_run
from polymask.data import Dataset, collate
from polymask.protocols import Tokenizer
from polymask.recipes import Stage
from polymask.run import open_data_of
from polymask.types import Count, Fact, Place
from polymask_vision.tokenizers import Patches

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

    def __init__(self, *, in_dim: Fact[Count] = 768, file: Place = None) -> None:
        super().__init__()
        self.book = open_book(file, in_dim, "target", "vision/cae")
        self.dim = self.book.codes

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """int64 ``[B, N]``."""
        ids: Tensor = self.book(tokens.values)[..., 0]
        return ids

    def invert(self, prediction: Tensor, tokens: Tokens) -> tuple[Tensor, str]:
        """Pixels of the likeliest code, given logits ``[B, N, dim]``."""
        return self.book.decode(prediction.argmax(-1)[..., None]), "the likeliest code"


class CodePatches(Patches):
    """Patches as numbers of the codes nearest to them; ``inverse`` gives the pixels of each code.

    Args:
        size: image height and width in pixels, or one number for both.
        channels: image channels.
        patch_size: side of a patch in pixels; must divide height and width.
        file: codebook, as ``polymask recipe vision/maskgit`` or :func:`fit_codes` make it. ``random:K`` takes
            K random directions in its place, which needs no data.

    Raises:
        UserError: no file, or one that holds something else.
    """

    def __init__(
        self,
        *,
        size: Fact[Count | tuple[Count, Count]] = 224,
        channels: Fact[Count] = 3,
        patch_size: Count = 16,
        file: Place = None,
    ) -> None:
        super().__init__(size=size, channels=channels, patch_size=patch_size)
        self.book = open_book(file, patch_size**2 * channels, "tokenizer", "vision/maskgit")

    @property
    def provides(self) -> dict[str, Any]:
        """That of patches with ``in_dim`` 1, and ``vocabulary``, the number of codes."""
        return {**super().provides, "in_dim": 1, "vocabulary": self.book.codes}

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor]) -> Tokens:
        """``batch["image"]`` float ``[B, C, H, W]`` to tokens, int64 ``[B, N, 1]``, also as their ``ids``."""
        patches = super().forward(batch)
        ids = self.book(patches.values)
        return dataclasses.replace(patches, values=ids, ids=ids[..., 0])

    def inverse(self, values: Tensor) -> Tensor:
        """Ids ``[B, N, 1]`` to images ``[B, C, H, W]``; an id below 0 to zeros, grey of normalised pixels."""
        return super().inverse(self._pixels(values))

    def complete(self, values: Tensor, batch: Mapping[str, Tensor], mask: Mask) -> Tensor:
        """The same where a mask hides patches; where it does not, the pixels of the batch as they are."""
        return super().inverse(mask.fill(super().forward(batch).values, self._pixels(values)))

    def _pixels(self, values: Tensor) -> Tensor:
        return torch.where(values < 0, 0.0, self.book.decode(values.clamp(min=0)))


def fit_codes(
    file: Path, data: Dataset, tokenizer: Tokenizer, *, codes: int, patches: int = 200_000, seed: int = 0
) -> Path:
    """Fit a codebook to patches of training images by k-means, and write it.

    Args:
        file: to write.
        data: whose training split is read, without augmentation, in random order until there are enough.
        tokenizer: what cuts patches.
        codes: how many.
        patches: how many to fit, at most.
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


def fitted(stage: Stage, config: RunConfig, *, codes: int, patches: int) -> str:
    """Fit codes to the patches of a recipe's data, unless that is done, and name them for its runs.

    Args:
        stage: of the recipe.
        config: of the run that takes the codes.
        codes: how many.
        patches: how many to fit, at most.

    Returns:
        The option ``file`` of parts that read the codes.
    """
    file = stage.folder / "codes.safetensors"
    if not file.exists():
        data = open_data_of(config)
        tokenizer = config.system.options["tokenizer"].build(data.provides)
        if isinstance(tokenizer, CodePatches):
            size, channels, patch_size = tokenizer.size, tokenizer.channels, tokenizer.patch_size
            tokenizer = Patches(size=size, channels=channels, patch_size=patch_size)
        file.parent.mkdir(parents=True, exist_ok=True)
        fit_codes(file, data, tokenizer, codes=codes, patches=patches, seed=config.training.seed)
    return relative_to_run(file.name)


def open_book(file: str | None, in_dim: int, slot: str, recipe: str) -> Codebook:
    """The codebook that an option of a part names.

    Args:
        file: path, or ``random:K``.
        in_dim: numbers per patch.
        slot: where the part is, for messages.
        recipe: one that fits a codebook and trains with it, for messages.

    Raises:
        UserError: no file, or one that holds something else.
    """
    if file is None:
        raise UserError(
            f"codes of what? give --{slot}.file CODEBOOK, or random:512 for codes that are not fitted; "
            f"polymask recipe {recipe} fits a codebook to the data and trains with it"
        )
    return _random(file, in_dim) if file.startswith("random:") else _read(file, in_dim)


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
