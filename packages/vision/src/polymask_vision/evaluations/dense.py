"""What patch tokens say of each pixel: linear segmentation, or linear regression of values."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polymask import Batch, Tokens, UserError
from polymask.evaluation import dense
from polymask.evaluation.features import TokenReader, encoder_tokens, evaluating, on_device
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import RAW, TRAINED, UNTRAINED
from polymask.systems.host import implementing
from polymask.types import Count
from polymask_vision.datasets.maps import LABELS, VALUES
from polymask_vision.evaluations.other_view import TwoPictures
from polymask_vision.views import OTHER

if TYPE_CHECKING:
    from polymask.run import Run


class Dense:
    """Accuracy and mean intersection over union of a linear classifier of patch tokens, at every pixel.

    Logits of patches are upsampled bilinearly to the pixels of ``label_map``, as in linear segmentation
    (DINOv2, Oquab et al. 2023, arXiv 2304.07193): figures of encoders with patches of other sizes can be
    compared, and none depends on how a patch of two classes is counted. As interpolation and classifier are
    both linear, it is fitted on features interpolated at some pixels of each training image: a convex
    problem, with no learning rate to choose. Beside the trained encoder stand the same untrained, the pixels
    of each patch, and the most frequent class.

    Where a system makes features of the first picture of a sample with the second one (vision/croco), those
    are measured too.

    Data with a ``value_map`` (depth, height) is measured by linear regression: R2 and the root of the mean
    squared error. Intervals are over test images.

    Args:
        layer: which entry of samples tells the truth; by default a label map or a value map, or the first
            task of data in layers.
        images: maximum number of images of each split, evenly spaced.
        pixels: labelled pixels of each training image, drawn at random.
        by_class: whether to give the intersection over union of each class.
        seed: of the draws.
        batch_size: images per batch.
    """

    def __init__(
        self,
        *,
        layer: str | None = None,
        images: Count | None = 500,
        pixels: Count = 20,
        by_class: bool = True,
        seed: int = 0,
        batch_size: Count = 16,
    ) -> None:
        self.layer, self.images, self.pixels, self.by_class = layer, images, pixels, by_class
        self.seed, self.batch_size = seed, batch_size

    def __call__(self, run: Run) -> Iterator[Measurement]:
        tasks = getattr(run.data, "provides", {}).get("tasks", ())
        layer = self.layer or next(iter(tasks), None)
        own = self.layer is None or self.layer in (LABELS, *tasks[:1])
        names = (getattr(run.data, "map_classes", None) or ()) if own else ()
        probe = dense.Dense(
            truth=functools.partial(truth, layer=layer),
            spread=at_pixels,
            samples=self.images,
            places=self.pixels,
            test_places=None,
            seed=self.seed,
            batch_size=self.batch_size,
            classes=names if self.by_class else None,
        )
        with evaluating(run.system) as one, evaluating(run.untrained()) as two:
            readers: dict[str, TokenReader] = {TRAINED: encoder_tokens(one), UNTRAINED: encoder_tokens(two)}
            tokenizer: Any = getattr(one, "tokenizer", None)
            if tokenizer is not None:
                readers[RAW] = lambda batch: tokenizer(on_device(batch, one))
            for name, system in ((TRAINED, one), (UNTRAINED, two)):
                pairs = implementing(system, TwoPictures)
                if pairs is not None and OTHER in run.data.split("train")[0]:
                    readers[f"{name}, both pictures"] = with_both(pairs)
            rows = {name: on_grid(read, layer) for name, read in readers.items()}
            yield from probe.measure(rows, run.data.split("train"), run.data.split("test"))


def with_both(system: Any) -> TokenReader:
    """Features that a system makes of the first picture of samples, with the second."""

    def read(batch: Batch) -> Tokens:
        tokens: Tokens = system.encode_pair(on_device(batch, system))
        return tokens

    return read


def truth(batch: Batch, layer: str | None = None) -> Tensor:
    """Classes or values of the pixels ``[B, H, W]`` of a batch.

    Args:
        batch: the samples.
        layer: where they are; by default in its label map or value map.

    Raises:
        UserError: there are none.
    """
    for name in (LABELS, VALUES) if layer is None else (layer,):
        if name in batch:
            found = batch[name]
            found = found[:, 0] if found.dim() == 4 and found.shape[1] == 1 else found
            if found.dim() != 3:
                raise UserError(f"a dense probe tells one number of each pixel, and {name} has several")
            return found
    raise UserError(
        f"a dense probe needs a class or a value of each pixel, and samples of this data have "
        f"{', '.join(sorted(set(batch) - {'id'}))} alone: use data whose samples have {LABELS!r} or "
        f"{VALUES!r}, as those of vision/segmentation"
    )


def on_grid(read: TokenReader, layer: str | None = None) -> dense.Features:
    """Features of the tokens of images, ``[B, rows, columns, D]``, which see no truth."""

    def features(batch: Batch) -> Tensor:
        tokens: Tokens = read({name: x for name, x in batch.items() if name not in (LABELS, VALUES, layer)})
        if tokens.grid is None or len(tokens.grid) != 2:
            raise UserError("a dense probe of images needs tokens on a grid of rows and columns")
        return tokens.values.view(len(tokens.values), *tokens.grid, -1)

    return features


def at_pixels(values: Tensor, chosen: Tensor) -> Tensor:
    """Values of a grid ``[B, h, w, K]``, interpolated bilinearly, at pixels chosen by a bool ``[B, H, W]``.

    As :func:`torch.nn.functional.interpolate` has them with ``align_corners=False``: a value is that of the
    middle of its patch, and reaches from there to the border.

    Returns:
        ``[n, K]``, in row-major order.
    """
    b, *places = chosen.nonzero(as_tuple=True)
    ends = []
    for place, size, cells in zip(places, chosen.shape[1:], values.shape[1:3], strict=True):
        where = ((place + 0.5) * (cells / size) - 0.5).clamp(0, cells - 1)
        first = where.long()
        ends.append((first, (first + 1).clamp(max=cells - 1), (where - first).to(values)[:, None]))
    (top, bottom, down), (left, right, across) = ends
    above = torch.lerp(values[b, top, left], values[b, top, right], across)
    below = torch.lerp(values[b, bottom, left], values[b, bottom, right], across)
    return torch.lerp(above, below, down)
