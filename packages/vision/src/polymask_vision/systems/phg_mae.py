"""PHG-MAE: Probabilistic Hyper-Graphs using Multiple Randomly Masked Autoencoders (Pirvu et al. 2025).

One small U-Net sees all layers of an image stacked by channel, a random subset of whole layers is hidden at
every step, and it must output all layers and all tasks at once. At test time many subsets are run, and their
answers averaged.

    pip install 'polymask-vision[earth]'
    polymask recipe vision/phg-mae --data earth-layers --data.labelled 0.02
    polymask pretrain vision/phg-mae --preset small --data layers:FOLDER --data.tasks '[depth]'
    polymask evaluate RUN vision/mask-ensemble

arXiv 2510.10068. Every subset of the inputs that may stay visible is a hyper-edge to each task, which the one
network shares. Layers are those of the data, see :class:`polymask_vision.layers.LayerPatches`; a hidden one
is 0, the mean of its standardised values. Labels may be missing, by pixel or by sample. The second stage of
the recipe is a student of under a million weights that sees the image alone and learns from the ensemble
where a sample has no label, by the same file (``--teacher``); with ``--tokenizer.visible null`` it sees all
layers, and is the paper's training on its own answers.

Training code was not published, and the text could not be read beyond the abstract. Network, layout and zeros
are those of the authors' released inference code. Ours are the law of masks (each input with 1/2, never
none), the losses (cross-entropy and squared error, each task with weight 1), the weight of reconstruction and
its mean over hidden inputs (``--reconstruct all`` scores visible ones too), and the number of masks in an
ensemble. By convexity an ensemble never has a larger squared error or log-loss than the mean of its members:
compare it with one pass in which nothing is hidden, as vision/mask-ensemble does. Batch norms go by the masks
of training; where one subset in use is rare among them, draw it more often (``--masking.whole``).

Shapes: B samples, C channels of all layers, I inputs, H rows and W columns of pixels, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import (
    Batch,
    Losses,
    Mask,
    MaskView,
    Preview,
    Request,
    Step,
    System,
    Tokens,
    UserError,
    functional,
)
from polymask.config import relative_to_run
from polymask.nn.teachers import Frozen
from polymask.protocols import Encoder, Masking, sample_ids
from polymask.recipes import Stage
from polymask.types import Count, Fact, NotNegative, Place
from polymask_vision.layers import LayerPatches
from polymask_vision.pixel_scale import Scales, require_same_scales
from polymask_vision.task_graph import save_tasks
from polymask_vision.tokenizers import Patches, picture_of

ENSEMBLE = 1000
"""First stream of the masks of an ensemble; the mask of training is stream 0."""


class PHGMAE(System):
    """Masked autoencoder of the layers of an image, whole layers hidden.

    Args:
        tokenizer: stacks the layers (vision/layer-patches).
        encoder: features of all tokens (paper: a U-Net of 8 to 32 channels, with patches of one pixel).
        masking: which inputs to hide; its sites are the inputs, the image first.
        reconstruction_weight: of inputs beside tasks of weight 1 each; 0 leaves them out.
        reconstruct: inputs that are ``"hidden"``, or ``"all"``.
        teacher: folder of a finished run of phg-mae on the same layers, whose ensemble stands in for labels
            of samples that have none; or None.
        passes: masks in an ensemble of the teacher.
        scales: mean and deviation that were taken out of each layer of values, from the data.
    """

    def __init__(
        self,
        *,
        tokenizer: Patches,
        encoder: Encoder,
        masking: Masking,
        reconstruction_weight: NotNegative = 0.1,
        reconstruct: Literal["hidden", "all"] = "hidden",
        teacher: Place = None,
        passes: Count = 8,
        scales: Fact[Scales | None] = None,
    ) -> None:
        super().__init__()
        if not isinstance(tokenizer, LayerPatches):
            raise UserError(
                f"phg-mae hides whole layers, and {type(tokenizer).__name__} stacks none: use "
                "vision/layer-patches"
            )
        if reconstruct not in ("hidden", "all"):
            raise UserError(f"reconstruct={reconstruct!r}: choose 'hidden' or 'all'")
        if not tokenizer.tasks and (not reconstruction_weight or len(tokenizer.inputs) < 2):
            raise UserError(
                f"nothing to predict: this data has the layers {', '.join(tokenizer.layers)}, none of them a "
                "task; use data of layers, such as earth-layers or layers:FOLDER, and say which are tasks "
                "(--data.tasks)"
            )
        self.tokenizer: LayerPatches = tokenizer
        self.encoder, self.masking = encoder, masking
        self.weight, self.reconstruct, self.passes = reconstruction_weight, reconstruct, passes
        side = tokenizer.patch_size * encoder.downsample
        self.head = nn.Linear(encoder.out_dim, tokenizer.outputs * side**2)
        self.teacher: Any = None if teacher is None else Frozen(teacher_of(teacher, tokenizer, scales))

    def forward(self, batch: Batch, step: Step) -> Losses:
        layers = self.tokenizer
        mask = self.draw(None, batch, step)
        out_BCHW = self.predict(layers.stack(batch, mask))
        answers = {} if self.teacher is None else self.teacher.module.ensemble(batch, step, self.passes)
        losses = {}
        for name in layers.tasks:
            truth_BCHW, known_BHW = self.truth(batch, name, answers.get(name))
            losses[name] = Mask(known_BHW).mean(self.error(name, out_BCHW, truth_BCHW))
        if self.weight:
            error_BIHW, scored = self.reconstruction(batch, out_BCHW, mask)
            losses["reconstruction"] = self.weight * scored.mean(error_BIHW)
        return losses

    def draw(self, tokens: Tokens | None, batch: Batch, step: Step, stream: int = 0) -> Mask:
        """A mask over the inputs, ``[B, I]``; one that a sample lacks is neither hidden nor visible."""
        given = self.tokenizer.given(batch)
        request = Request(sample_ids(batch), given.shape[1], step, valid=given, stream=stream)
        mask: Mask = self.masking(request)
        if mask.hidden.shape != given.shape:
            raise UserError(
                f"{type(self.masking).__name__} drew a mask of shape {list(mask.hidden.shape)} over "
                f"{list(given.shape)} layers: use core/modalities"
            )
        return mask

    def predict(self, x_BCHW: Tensor) -> Tensor:
        """All layers, ``[B, C, H, W]``, of stacked inputs: values, or logits of classes."""
        tokens, layers = self.tokenizer.tokens(x_BCHW), self.tokenizer
        z_BLF = self.head(functional.encode_tokens(self.encoder, tokens)[:, self.encoder.prefix :])
        flat_BND = functional.unfold(z_BLF, layers.grid, self.encoder.downsample)
        return picture_of(flat_BND, layers.grid, layers.patch_size).float()

    def error(self, name: str, out_BCHW: Tensor, truth_BCHW: Tensor) -> Tensor:
        """Of each pixel of a layer: cross-entropy of classes, mean squared error of values, ``[B, H, W]``."""
        out, truth = out_BCHW[:, self.tokenizer.layers[name]], truth_BCHW.float()
        if name in self.tokenizer.class_layers:
            return -(truth * out.log_softmax(dim=1)).sum(1)
        return F.mse_loss(out, truth, reduction="none").mean(1)

    def truth(self, batch: Batch, name: str, answer_BCHW: Tensor | None) -> tuple[Tensor, Tensor]:
        """What a task should be, ``[B, C, H, W]``, and where that is known, ``[B, H, W]``.

        Args:
            batch: the layers by name.
            name: of the task.
            answer_BCHW: what a teacher says, which stands in for samples without any label.
        """
        truth, known = self.tokenizer.read(batch, name)
        if answer_BCHW is None:
            return truth, known
        none_B = ~known.flatten(1).any(1)
        return torch.where(none_B[:, None, None, None], answer_BCHW, truth), known | none_B[:, None, None]

    def reconstruction(self, batch: Batch, out_BCHW: Tensor, mask: Mask) -> tuple[Tensor, Mask]:
        """The error at each pixel of each input, ``[B, I, H, W]``, and which of them count."""
        errors, known = [], []
        for name in self.tokenizer.inputs:
            truth, there = self.tokenizer.read(batch, name)
            errors.append(self.error(name, out_BCHW, truth))
            known.append(there)
        known_BIHW = torch.stack(known, dim=1)
        if self.reconstruct == "hidden":
            known_BIHW = known_BIHW * mask.hidden[:, :, None, None]
        return torch.stack(errors, dim=1), Mask(known_BIHW)

    # ------------------------------------------------------------------------------------------- answers

    def activate(self, out_BCHW: Tensor) -> dict[str, Tensor]:
        """Each task of an output: probabilities of classes, or values."""
        parts = {name: out_BCHW[:, self.tokenizer.layers[name]] for name in self.tokenizer.tasks}
        return {k: x.softmax(1) if k in self.tokenizer.class_layers else x for k, x in parts.items()}

    def answer(self, batch: Batch, mask: Mask | None = None) -> dict[str, Tensor]:
        """Each task ``[B, C, H, W]``, of one pass: probabilities of classes, or values.

        Args:
            batch: the layers by name; those that it lacks are 0.
            mask: over inputs, ``[B, I]``; by default nothing is hidden.
        """
        return self.activate(self.predict(self.tokenizer.stack(batch, mask)))

    def exports(self) -> dict[str, Callable[[Mapping[str, Any], Path], None]]:
        """Formats of ``polymask export``: the network with its answers, see :func:`save_tasks`."""
        return {"tasks": lambda facts, out: save_tasks(self, facts, out)}

    @torch.no_grad()
    def ensemble(self, batch: Batch, step: Step, passes: int, stream: int = ENSEMBLE) -> dict[str, Tensor]:
        """The mean of such answers over several masks, of probabilities rather than logits.

        Args:
            batch: the layers by name.
            step: the source of chance.
            passes: number of masks.
            stream: of the first of them.
        """
        total: dict[str, Tensor] = {}
        for k in range(passes):
            mask = self.draw(None, batch, step, stream + k)
            for name, x in self.answer(batch, mask).items():
                total[name] = total[name] + x if k else x
        return {name: x / passes for name, x in total.items()}

    def encode(self, batch: Batch) -> Tokens:
        """Features of the layers that may be visible, nothing hidden."""
        return functional.encode_grid(self.encoder, self.tokenizer(batch))

    # ---------------------------------------------------------------------------------------- to look at

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        return {"layers": MaskView(self.draw(None, batch, step))}

    @torch.no_grad()
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The error of each input where it is hidden, and of tasks the accuracy of one pass."""
        layers, mask = self.tokenizer, self.draw(None, batch, step)
        out_BCHW = self.predict(layers.stack(batch, mask))
        errors, scored = self.reconstruction(batch, out_BCHW, mask)
        found = {
            f"error_of_{name}": Mask(scored.hidden[:, k]).mean(errors[:, k])
            for k, name in enumerate(layers.inputs)
        }
        for name in layers.tasks:
            truth, known = self.truth(batch, name, None)
            if name in layers.class_layers:
                right = out_BCHW[:, layers.layers[name]].argmax(1) == truth.argmax(1)
                found[f"accuracy_of_{name}"] = Mask(known).mean(right.float())
        return found

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        """Every layer: inputs as they were shown, blank where hidden, and all of them as predicted."""
        layers, mask = self.tokenizer, self.draw(None, batch, step)
        shown_BCHW = layers.stack(batch, mask)
        out_BCHW = self.predict(shown_BCHW)
        media = {}
        for name in (*layers.inputs, *layers.tasks):
            place = layers.layers[name]
            known, seen = self.truth(batch, name, None)[0], shown_BCHW[:, place]
            media[name] = layers.picture(name, known)
            if name in layers.inputs:
                media[f"{name}, visible"] = layers.picture(name, seen)
            media[f"{name}, predicted"] = layers.picture(name, out_BCHW[:, place])
        return Preview(media)


def teacher_of(folder: str, layers: LayerPatches, scales: Scales | None) -> System:
    """The system of a finished run of phg-mae, if its layers are the same.

    Raises:
        UserError: they are not, or it is a run of another system.
    """
    from polymask.run import Run

    run = Run.open(folder)
    found: Any = run.system
    if not isinstance(found, PHGMAE):
        raise UserError(f"{folder} holds {type(found).__name__}: give --teacher a run of vision/phg-mae")
    own, asked = (
        dict(one.layers, size=one.size, tasks=one.tasks, classes=one.class_layers)
        for one in (found.tokenizer, layers)
    )
    if own != asked:
        raise UserError(
            f"the teacher {folder} knows {', '.join(found.tokenizer.layers)}, and this data has "
            f"{', '.join(layers.layers)}; or their sizes, classes or tasks differ: train it on the same data"
        )
    require_same_scales(run, scales)
    return found


def phg_mae(
    stage: Stage, /, *, preset: str = "small", student: str = "student", steps: Count | None = None
) -> None:
    """A network of all layers, hidden at random, and a smaller one that learns from its ensemble.

    Args:
        stage: trains a run.
        preset: of the first.
        student: preset of the second, which sees the image alone.
        steps: of each stage; by default the preset's.
    """
    length = {} if steps is None else {"steps": steps}
    teacher = stage("ensemble", "vision/phg-mae", preset=preset, **length)
    within = relative_to_run(teacher.folder.name)
    stage("student", "vision/phg-mae", preset=student, teacher=within, **length)
