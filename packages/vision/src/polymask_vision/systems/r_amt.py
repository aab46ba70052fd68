r"""R-AMT: Regularized Mask Tuning (Zheng et al. 2023, arXiv 2307.15049).

A trained classifier stays as it is; which of its encoder's attention weights to switch off for other data is
learned from few labels, by gradient. Where that gradient disagrees with the one of staying close to the
classifier as it was, it is dropped, the likelier the more they disagree.

    polymask recipe vision/r-amt --data core/few-labels --data.data vision/emoji --data.data.vendor google \
        --base_data vision/emoji --base_data.vendor twitter
    polymask pretrain vision/r-amt --preset small --data fashion --base RUN

The recipe trains the classifier first, or fits a linear one to a model of timm; the second command takes a
run of vision/supervised, or the export of one. Sizes must be those of the base. At the start no weight is
hidden, so "untrained" in a probe is the base; vision/retention measures what is gained and what is kept.

A weight is switched off when its number falls from 0.01 to 0.005. Adam moves a number by about the learning
rate in a step, so that nothing changes in the first 0.005 / lr steps: raise the rate of a short run.

The gate of the release is the default (its figure shows the opposite chances). Its own gradient is taken in
the backward pass, and averaged over processes and parts of a step. Masks of the patch embedding, which the
release has too, are with ``--which all``; classifiers here are linear, not of text.

Shapes: B samples, K classes.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import (
    Batch,
    Losses,
    Mask,
    Preview,
    Request,
    Step,
    System,
    Tokens,
    UserError,
    default_registry,
    distributed,
    functional,
)
from polymask.config import PartConfig, built_from, options_of, relative_to_run
from polymask.config.options import without_facts
from polymask.export import export
from polymask.imports import load_initial
from polymask.protocols import Encoder, Masking, Tokenizer
from polymask.recipes import Stage
from polymask.types import Count, Fact, NotNegative, Place, Positive, Share
from polymask_vision.bases import fit_classifier, head_of, of_timm, open_base
from polymask_vision.weights import (
    masked_weights,
    require_learned,
    save_masks,
    settle,
    share_hidden,
    weights_of,
)


class RAMT(System):
    """A frozen classifier with learned masks over weights of its encoder.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes all tokens; its weights are those of the base.
        masking: turns the number of each weight into a mask, and passes gradient on.
        base: folder of a run of vision/supervised or of its export; ``random`` for random weights, to try
            things out.
        which: weights that masks are over: those of ``attention`` layers, in networks without any those of
            convolutions; or ``all`` matrices and kernels.
        initial: number of each weight at the start.
        drop: share of a disagreeing gradient that is dropped, where it is: 1 for all of it, 0 for no gate
            (AMT).
        norm_weight: weight of the norms of all numbers, a norm for each matrix.
        temperature: of the base's answer that the gate stays close to.
        classes: number of classes, from the data.
        mean: per channel, what was subtracted from values in [0, 1], from the data.
        std: per channel, what they were divided by, from the data.
    """

    supervised = True
    encoder: Any

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        masking: Masking,
        base: Place = None,
        which: Literal["attention", "all"] = "attention",
        initial: float = 0.01,
        drop: Share = 1.0,
        norm_weight: NotNegative = 1e-4,
        temperature: Positive = 1.0,
        classes: Fact[Count] = 10,
        mean: Fact[Sequence[float] | None] = None,
        std: Fact[Sequence[float] | None] = None,
    ) -> None:
        super().__init__()
        require_learned(masking, "r-amt")
        network: Any = encoder
        self.tokenizer, self.encoder, self.masking, self.base = tokenizer, network, masking, base
        self.drop, self.norm_weight, self.temperature = drop, norm_weight, temperature
        self.names = weights_of(network, which)
        weights = [network.get_parameter(name) for name in self.names]
        self.reals = nn.ParameterList(nn.Parameter(torch.full_like(w, initial)) for w in weights)
        self.pool, self.pooler, self.head = head_of(base, encoder, classes)
        if base not in (None, "random"):
            known = {name: value for name, value in (("mean", mean), ("std", std)) if value is not None}
            load_initial(self, base, facts=known)
        for part in (network, self.pooler, self.head):
            part.requires_grad_(False).eval()
        self._away: dict[Step, tuple[tuple[Tensor, ...], int]] = {}
        self._kept = torch.ones(())

    def forward(self, batch: Batch, step: Step) -> Losses:
        label_B, tokens = batch["label"], self.tokenizer(batch)
        logits_BK = self.answer(tokens, self.weight_masks(step))
        known = Mask(label_B >= 0)
        task = known.mean(F.cross_entropy(logits_BK, label_B.clamp(min=0), reduction="none"))
        if self.drop and task.requires_grad:
            base_BK = (self.answer(tokens, {}) / self.temperature).softmax(-1)
            away = F.cross_entropy(logits_BK, base_BK, reduction="sum")
            # when gradient of the task passes: once for each part of a step, may forward run more often
            task.register_hook(  # type: ignore[no-untyped-call]
                lambda _: self._collect(away, len(label_B), step)
            )
        norms = torch.stack([real.norm() for real in self.reals])
        return {"task": task, "norm": self.norm_weight * norms.sum()}

    def answer(self, tokens: Tokens, masks: Mapping[str, Mask]) -> Tensor:
        """Logits float32 ``[B, K]`` under masks over weights; those of the base under none."""
        learns = bool(masks) and torch.is_grad_enabled()
        with torch.set_grad_enabled(learns), masked_weights(self.encoder, masks):
            logits: Tensor = self.head(self.pooler(functional.encode_grid(self.encoder, tokens)))
        return logits.float()

    def weight_masks(self, step: Step = Step()) -> dict[str, Mask]:  # noqa: B008  immutable
        """What is hidden of each weight, ``[1, numbers]``, by its name in the encoder."""
        found = {}
        for place, (name, real) in enumerate(zip(self.names, self.reals, strict=True)):
            ids, grid = torch.tensor([place], device=real.device), (len(real), real[0].numel())
            found[name] = self.masking(
                Request(ids, real.numel(), step, grid=grid, score=real.flatten()[None])
            )
        return found

    def _collect(self, away: Tensor, samples: int, step: Step) -> None:
        """Add the gradient of moving away from the base, summed over the samples of a part of a step."""
        own = torch.autograd.grad(away, list(self.reals), retain_graph=True)
        if step in self._away:
            totals, before = self._away[step]
            own, samples = tuple(map(torch.add, totals, own)), before + samples
        self._away = {step: (own, samples)}

    @torch.no_grad()
    def after_backward(self, step: Step) -> None:
        if not self.drop or step not in self._away:
            return
        totals, samples = self._away.pop(step)
        count, kept = distributed.mean(self.reals[0].new_tensor(float(samples))), []
        for place, (real, total) in enumerate(zip(self.reals, totals, strict=True)):
            assert real.grad is not None
            if hasattr(real.grad, "full_tensor"):
                raise UserError("r-amt compares whole gradients, and these are in shards: use --strategy ddp")
            keep = gate(real.grad, distributed.mean(total) / count, step, place)
            real.grad *= 1 - self.drop + self.drop * keep
            kept.append(keep.float().mean())
        self._kept = torch.stack(kept).mean()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Decay would hide all weights in time."""
        return [{"params": list(self.reals), "weight_decay": 0.0}]

    # ------------------------------------------------------------------------------- the masked classifier

    @property
    def backbone(self) -> Encoder:
        """A copy of the encoder whose hidden weights are 0."""
        encoder: Any = copy.deepcopy(self.encoder)
        with torch.no_grad():
            settle(encoder, self.weight_masks())
        return encoder  # type: ignore[no-any-return]

    @property
    def classifier(self) -> RAMT:
        """What predicts, as that of vision/supervised."""
        return self

    def encode(self, batch: Batch) -> Tokens:
        with masked_weights(self.encoder, self.weight_masks()):
            return functional.encode(self.tokenizer, self.encoder, batch)

    def classify(self, batch: Batch) -> Tensor:
        """Logits ``[B, K]``."""
        return self.answer(self.tokenizer(batch), self.weight_masks())

    def exports(self) -> dict[str, Callable[[Mapping[str, Any], Path], None]]:
        """Formats of ``polymask export`` beside those of the encoder: the masks alone, a bit per weight."""
        return {"masks": lambda facts, out: save_masks(self.encoder, self.weight_masks(), out)}

    # ----------------------------------------------------------------------------------------- to look at

    def masks(self, batch: Batch, step: Step) -> dict[str, Any]:
        return {}  # none is over samples; preview shows those of weights

    @torch.no_grad()
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens, label_B, masks = self.tokenizer(batch), batch["label"], self.weight_masks(step)
        said_B, base_B = (self.answer(tokens, each).argmax(1) for each in (masks, {}))
        known, found = Mask(label_B >= 0), {"hidden_weights": share_hidden(masks)}
        for name, right_B in (("training_accuracy", said_B), ("base_accuracy", base_B)):
            found[name] = known.mean((right_B == label_B).float())
        return {**found, "as_the_base": (said_B == base_B).float().mean(), "gradient_kept": self._kept}

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        lines: dict[str, list[Tensor]] = {}
        for name, mask in self.weight_masks(step).items():
            kind = re.sub(r"^.*\d+\.", "", name).removesuffix(".weight")
            lines.setdefault(kind, []).append(share_hidden({name: mask}).cpu())
        longest = max(map(len, lines.values()))
        gap = torch.tensor(float("nan"))
        filled = {k: torch.stack([gap, *x, *[gap] * (longest - len(x))]) for k, x in lines.items()}
        return Preview(lines={"share of the weights that is hidden, by depth": filled})


def gate(a: Tensor, b: Tensor, step: Step, place: int) -> Tensor:
    """Which entries of a gradient are kept: those that agree with another, and some of the others.

    Args:
        a: gradient of the task.
        b: gradient of moving away from the base.
        step: the source of chance.
        place: number of the tensor among those of the system.

    Returns:
        bool, True with probability 1 where signs agree, else |a| / (|a| + |b|).
    """
    chance = 0.5 * (1 + a.sign() * (a + b) / (a.abs() + b.abs() + 1e-8))
    drawn = step.noise(torch.tensor([place], device=a.device), a.numel()).view_as(a)
    return drawn < chance


def r_amt(
    stage: Stage,
    /,
    *,
    base_data: Any = None,
    base: str | None = None,
    model: str | None = None,
    patch_size: Count = 16,
    refit: bool = False,
    preset: str = "small",
    steps: Count | None = None,
) -> None:
    """A classifier, and masks over its weights for other data.

    Args:
        stage: trains a run.
        base_data: what the classifier is trained on, with the classes of the recipe's data; in place of
            ``base`` and ``model``.
        base: folder of a run of vision/supervised, or of its export.
        model: of timm, by name or ``local-dir:FOLDER``; images must have a size that it takes.
        patch_size: of ``model``, or what divides the pixels of one of its outputs.
        refit: fit the linear classifier of ``base`` to the recipe's data, whose classes may be others. That
            of ``model`` always is.
        preset: of both stages.
        steps: of each stage; by default the preset's.
    """
    if sum(x is not None for x in (base_data, base, model)) != 1:
        raise UserError("masks over which network? give one of --base_data, --base and --model")
    length, folder = {} if steps is None else {"steps": steps}, stage.folder / "base"
    if base_data is not None:
        stage("base", "vision/supervised", data=base_data, preset=preset, **length)
    elif base is not None and not refit:
        folder = Path(base).absolute()
    elif not folder.exists():
        system = open_base(base) if base is not None else of_timm(str(model), stage, patch_size)
        fit_classifier(system, stage.data)
        export(system, "safetensors", folder, facts=stage.data.provides)
    found = open_base(folder)
    parts = {}
    for slot in ("tokenizer", "encoder"):
        options = built_from(getattr(found, slot)) or {}
        part = default_registry().find(f"{slot}s", options.pop("name"))
        # with defaults, which the preset of the stage would replace
        parts[slot] = PartConfig(part, options_of(part), without_facts(part, options)).plain()
    within = relative_to_run(folder.name) if folder.parent == stage.folder else str(folder)
    stage("masks", "vision/r-amt", base=within, preset=preset, **parts, **length)
