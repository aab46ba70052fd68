"""How much of a teacher's embeddings each layer of a language model of images holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Batch, System, Tokens, UserError
from polymask.data import SplitName
from polymask.evaluation.features import evaluating
from polymask.evaluation.heldout_loss import batches
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.protocols import Target
from polymask.systems.host import implementing
from polymask.types import Count

if TYPE_CHECKING:
    from polymask.run import Run


PENALTY = 1e-3
"""On squared weights of standardised features, for each sample."""


@runtime_checkable
class ShowsLayers(Protocol):
    """A system that says what each layer of a language model makes of the tokens of an image."""

    def image_states(self, batch: Batch) -> list[Tokens]:
        """``[B, V, D]`` each."""


class LayerEmbeddings:
    """Cosine of a teacher's embeddings of patches and of what a linear map tells of them, by layer.

    A map of each layer is fitted to patches of training images by least squares; the figure is the mean over
    patches and test images, with an interval over images. The paper trains a head for each layer instead.
    What was asked of a layer in training it is bound to hold: this says how much, and whether other layers
    hold it too.

    Args:
        target: what to tell of each patch; by default each of the system's own teachers in turn.
        images: maximum number of images of each split, evenly spaced.
        batch_size: images at a time.
    """

    def __init__(
        self, *, target: Target | None = None, images: Count | None = 300, batch_size: Count = 50
    ) -> None:
        self.target, self.images, self.batch_size = target, images, batch_size

    def __call__(self, run: Run) -> Iterator[Measurement]:
        own: Any = run.system
        targets = {"": self.target} if self.target else dict(getattr(own, "targets", dict)())
        if not targets:
            raise UserError(
                f"{run.name} has no teachers of its own: name one, --evaluation.target vision/teacher "
                "--evaluation.target.run FOLDER"
            )
        for row, system in ((TRAINED, run.system), (UNTRAINED, run.untrained())):
            for name, target in targets.items():
                with evaluating(system), torch.no_grad():
                    train, test = (self._read(system, run, target, split) for split in ("train", "test"))
                for layer, (x, z) in enumerate(zip(train[0], test[0], strict=True), 1):
                    told = linear_map(x.flatten(0, 1), train[1].flatten(0, 1), z.flatten(0, 1))
                    alike = F.cosine_similarity(told.view_as(test[1]), test[1], dim=-1).mean(1)
                    metric = f"cosine, {name} layer {layer}" if name else f"cosine, layer {layer}"
                    yield Measurement.mean(row, metric, alike.tolist())

    def _read(self, system: System, run: Run, target: Any, split: SplitName) -> tuple[list[Tensor], Tensor]:
        """By layer what it makes of each patch ``[n, N, D]``, and the embeddings ``[n, N, T]``."""
        shown: ShowsLayers | None = implementing(system, ShowsLayers)
        if shown is None:
            raise UserError(f"{run.name} has no layers that read images: this is for vision/ola-vlm")
        layers, wanted = list[list[Tensor]](), list[Tensor]()
        for batch in batches(system, run.data, self.images, self.batch_size, split, whole=True):
            tokens = system.tokenizer(batch)
            embeddings = target(batch, tokens)
            known = embeddings.isfinite().flatten(1).all(1)
            states = [one.values for one in shown.image_states(batch)]
            if states[0].shape[1] != embeddings.shape[1]:
                raise UserError(
                    f"the image encoder gives {states[0].shape[1]} tokens of {embeddings.shape[1]} patches: "
                    "embeddings are told patch by patch, use an encoder of as many"
                )
            layers.append([x[known].float().cpu() for x in states])
            wanted.append(embeddings[known].float().cpu())
        return [torch.cat(parts) for parts in zip(*layers, strict=True)], torch.cat(wanted)


def linear_map(train: Tensor, wanted: Tensor, test: Tensor) -> Tensor:
    """What an affine map, fitted by least squares with a slight penalty, tells of other features.

    Args:
        train: float32 ``[n, D]``.
        wanted: ``[n, T]``.
        test: ``[m, D]``.

    Returns:
        float32 ``[m, T]``.
    """
    std, mean = torch.std_mean(train.double(), dim=0, unbiased=False)
    scale = torch.where(std > 1e-6 * std.max(), 1 / std, 0.0)
    x, z = ((part.double() - mean) * scale for part in (train, test))
    middle = wanted.double().mean(0)
    gram = x.T @ x + PENALTY * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(gram, x.T @ (wanted.double() - middle))
    told: Tensor = (z @ weight + middle).float()
    return told
