"""MaskAlign: masked image modelling without reconstruction (Xue et al. 2022, arXiv 2211.08887).

Encode the visible patches alone and match what a frozen teacher, which sees the whole image, makes of these
same patches, at several layers at once: no mask tokens, no decoder. The patches that the teacher attends to
are the likelier to stay visible.

    polymask recipe vision/maskalign --data fashion-mnist
    polymask pretrain vision/maskalign --preset small --data fashion-mnist --target.run FOLDER

The recipe trains a teacher on the labels of the data, then its student, and probes both: a student is as good
as its teacher allows. Other teachers are runs and Vision Transformers of timm and of transformers
(``--target.model NAME``). Attention tells something where a loss has taught the class token: with a run that
has no use for it, take ``--masking core/random``; so too with other networks of timm, such as convolutional
ones, which teach by their last map and have no attention.

Each layer of the teacher is matched by a mixture of all layers of the student, by a learned matrix that
starts near the identity and is neither normalised nor decayed; for networks of different depth there is
``--fusion sum``. The norm behind the student's last block takes no part, as in the release. Whitened features
cost a guess of zero about 0.85. Defaults are the recommended command of the release, whose command line
itself defaults to no whitening, no mixture and random masks.

``--target vision/pixels`` and other targets have one layer, matched by the last of the student; give a
``--score`` or ``--masking core/random`` then, as there is no attention to go by.

Shapes: B samples, N tokens, K of them visible (class token included, once it leads), L student layers, A
teacher layers, D student width, T width of one teacher layer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, UserError, functional
from polymask.config import relative_to_run
from polymask.nn.blocks import initialise
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.recipes import Stage
from polymask.types import Count, NotNegative, Positive
from polymask_vision.targets import led

Fusion = Literal["linear", "sum", "simple"]
Head = Literal["linear", "norm-linear", "mlp", "linear-norm-linear"]


class MaskAlign(System):
    """Matches a frozen teacher's features of the visible tokens.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes the visible tokens; one that lets its blocks be run, such as vision/vit.
        target: features of each token, of one layer or of several side by side (paper: the last five of a
            teacher, whitened).
        masking: what to hide, given the logarithm of what the teacher attends to.
        objective: how an aligned feature is scored (paper: smooth L1).
        score: how much each token counts, 0 or more, in place of the teacher's attention.
        fusion: what each teacher layer is matched by: a ``"linear"`` mixture of all student layers, which
            starts near the one of equal depth; for networks of other depths one that starts at their mean
            (``"sum"``); or the layer of equal depth alone (``"simple"``).
        head: map from the student's width to the teacher's, one per layer.
        layer_weights: weight of each teacher layer; None for their mean.
        loss_scale: factor on the loss (release: 2 with smooth L1, 1 with others).
    """

    leaves_out = True

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        target: Target,
        masking: Masking,
        objective: Objective,
        score: Target | None = None,
        fusion: Fusion = "linear",
        head: Head = "linear",
        layer_weights: tuple[NotNegative, ...] | None = None,
        loss_scale: Positive = 2.0,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective, self.score = masking, objective, score
        if not hasattr(encoder, "begin"):
            raise UserError(
                f"maskalign matches the output of every block, and {type(encoder).__name__} does not show "
                "it: use vision/vit"
            )
        if score is not None and score.dim != 1:
            raise UserError(
                f"a score is one number per token, and {type(score).__name__} gives {score.dim}: choose "
                "--score NAME with a target of width 1"
            )
        student: Any = encoder
        depth = len(student.blocks)
        layers: tuple[int, ...] = getattr(target, "layers", (depth,))
        blocks: int = getattr(target, "depth", depth)
        if fusion != "sum" and blocks != depth:
            raise UserError(
                f"fusion={fusion!r} pairs layers of equal depth, and the teacher has {blocks} blocks, the "
                f"encoder {depth}: use --fusion sum, or --encoder.depth {blocks}"
            )
        weights = layer_weights or (1 / len(layers),) * len(layers)
        if len(weights) != len(layers) or not sum(weights):
            raise UserError(
                f"layer_weights={weights}: give one for each of the layers {layers} of the target, not all 0"
            )
        self.weights, self.loss_scale = weights, loss_scale
        self.alignment = DynamicAlignment(depth, layers, encoder.dim, target.dim // len(layers), fusion, head)
        why = "layers are matched before the norm behind the last block"
        self.unused = functional.unused_parameters(self, student.norm, why)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        features, attention_BN = self.look(batch, tokens)
        mask = self.mask(attention_BN, tokens, batch, step)
        aligned_BKT, wanted_BKT = self.align(tokens, features, mask)
        losses = [
            weight * functional.masked_loss(self.objective, aligned, wanted)
            for weight, aligned, wanted in zip(self.weights, aligned_BKT, wanted_BKT, strict=True)
        ]
        return {"alignment": self.loss_scale * torch.stack(losses).sum()}

    @torch.no_grad()
    def look(self, batch: Batch, tokens: Tokens) -> tuple[Tokens, Tensor | None]:
        """The target of every token of the whole image, the class token's as prefix; and its attention."""
        teacher: Any = self.target
        if hasattr(teacher, "look"):
            features, attention_BN = teacher.look(batch, tokens)
            return features, attention_BN
        return Tokens(teacher(batch, tokens), tokens.position), None

    def mask(
        self, attention_BN: Tensor | None, tokens: Tokens, batch: Batch, step: Step, stream: int = 0
    ) -> Mask:
        """A mask by attention, or by the score."""
        weight_BN = attention_BN if self.score is None else self.score(batch, tokens)[..., 0]
        evidence = None if weight_BN is None else weight_BN.float().clamp(min=1e-12).log()
        mask = functional.draw_mask(self.masking, tokens, batch, step, evidence, stream)
        return functional.require_hard_mask("maskalign", self.masking, mask)

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        return self.mask(self.look(batch, tokens)[1], tokens, batch, step, stream)

    def align(self, tokens: Tokens, features: Tokens, mask: Mask) -> tuple[list[Tensor], list[Tokens]]:
        """Aligned and wanted features of the visible tokens, ``[B, K, T]`` for each teacher layer.

        The class token leads both, where student and teacher have one.
        """
        kept, r = mask.keep(features), self.encoder.prefix
        lead = min(r, 0 if kept.prefix is None else 1)
        wanted = led(kept, bool(lead))
        _, *states = functional.encode_states(self.encoder, mask.keep(tokens))
        layers = [torch.cat([x_BKD[:, :lead], x_BKD[:, r:]], dim=1) for x_BKD in states]
        by_layer = wanted.values.chunk(len(self.weights), dim=-1)
        return self.alignment(layers), [replace(wanted, values=one) for one in by_layer]

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        inverse: Any = getattr(self.tokenizer, "inverse", None)
        if inverse is None:
            return Preview()
        tokens = self.tokenizer(batch)
        features, attention_BN = self.look(batch, tokens)
        mask = self.mask(attention_BN, tokens, batch, step)
        blank, (dark, bright) = tokens.values.new_zeros(1), tokens.values.aminmax()

        def heat(share_BN: Tensor) -> Tensor:
            shade = torch.lerp(dark, bright, share_BN.clamp(max=1).to(dark.dtype))
            return shade[..., None].expand_as(tokens.values)

        media = {"original": inverse(tokens.values)}
        if attention_BN is not None:
            by_most = attention_BN / attention_BN.amax(1, keepdim=True)
            media["attention of the teacher (bright: large)"] = inverse(heat(by_most))
        media["visible"] = inverse(mask.fill(tokens.values, blank))
        pairs = zip(*self.align(tokens, features, mask), strict=True)
        error_BK = torch.stack([(a.float() - b.values).square().mean(-1) for a, b in pairs]).mean(0)
        error_BK = error_BK[:, -mask.keep(tokens).shape[1] :]
        # white at four times the mean error
        error_BN1 = mask.restore(error_BK[..., None] / (4 * error_BK.mean()), blank)
        errors = mask.fill(heat(error_BN1[..., 0]), blank)
        return Preview({**media, "error of the aligned features (bright: large)": inverse(errors)})


class DynamicAlignment(nn.Module):
    """A mixture of student layers for each teacher layer, then a head.

    Args:
        depth: L, student layers.
        layers: teacher layers to match, from 1.
        in_dim: D, width of the student.
        out_dim: T, width of a teacher layer.
        fusion: see :class:`MaskAlign`.
        head: see :class:`MaskAlign`.
    """

    mixture: Tensor

    def __init__(
        self, depth: int, layers: tuple[int, ...], in_dim: int, out_dim: int, fusion: Fusion, head: Head
    ) -> None:
        super().__init__()
        if fusion not in get_args(Fusion) or head not in get_args(Head):
            raise UserError(
                f"fusion={fusion!r}, head={head!r}: choose of {', '.join(get_args(Fusion))} and of "
                f"{', '.join(get_args(Head))}"
            )
        if fusion == "sum":
            mixture_AL = torch.full((len(layers), depth), 1 / depth)
        else:
            mixture_AL = torch.eye(depth)[[layer - 1 for layer in layers]]
        if fusion == "linear":
            mixture_AL += 0.01
        self.mixture = nn.Parameter(mixture_AL, requires_grad=fusion != "simple")
        self.heads = nn.ModuleList(_head(head, in_dim, out_dim) for _ in layers)
        initialise(self.heads)

    def no_weight_decay(self) -> set[str]:
        """Parameters that stay where learning puts them."""
        return {"mixture"}

    def forward(self, layers: list[Tensor]) -> list[Tensor]:
        """``[B, K, D]`` of each student layer to ``[B, K, T]`` for each teacher layer."""
        mixed_ABKD = torch.einsum("al,lbkd->abkd", self.mixture, torch.stack(layers))
        return [head(x) for head, x in zip(self.heads, mixed_ABKD, strict=True)]


def _head(kind: Head, in_dim: int, out_dim: int) -> nn.Sequential:
    first, norm, last = nn.Linear(in_dim, in_dim), nn.LayerNorm(in_dim), nn.Linear(in_dim, out_dim)
    found: dict[Head, tuple[nn.Module, ...]] = {
        "linear": (last,),
        "norm-linear": (norm, last),
        "mlp": (first, nn.GELU(), last),
        "linear-norm-linear": (first, norm, last),
    }
    return nn.Sequential(*found[kind])


def maskalign(stage: Stage, /, *, preset: str = "small", steps: Count | None = None) -> None:
    """A teacher trained on labels, and a student of it.

    Args:
        stage: trains a run.
        preset: of both stages.
        steps: of each stage; by default the preset's.
    """
    length = {} if steps is None else {"steps": steps}
    # the class token is classified, so that its attention says what matters
    teacher = stage("teacher", "vision/supervised", preset=preset, pool="prefix", **length)
    target = {"name": "vision/teacher", "run": relative_to_run(teacher.folder.name)}
    stage("student", "vision/maskalign", preset=preset, target=target, **length)
