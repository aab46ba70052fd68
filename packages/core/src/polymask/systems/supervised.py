"""Training of an encoder on labels: fine-tuning, and what pre-training without labels is compared with.

The recipe that masked pre-training papers report (He et al. 2021, MAE, arXiv 2111.06377, appendix A.1, and
FINETUNE.md of its release): a linear classifier on the mean of the encoder's tokens, trained together with it
by cross-entropy with smoothed labels on mixed samples, at learning rates that fall from the last block to the
first. Nothing is masked. Samples without a label do not count.

    polymask finetune runs/mae-fashion-1
    polymask finetune runs/mae-fashion-1 --preset attentive
    polymask pretrain vision/supervised --preset small --data fashion-mnist

The first trains the encoder of a run beside the same from scratch; the second leaves both as they are and
trains what attends to their tokens, attentive probing (Bardes et al. 2024, V-JEPA, arXiv 2404.08471;
El-Nouby et al. 2024, AIM, arXiv 2401.08541). Guessing by the frequencies of K classes that are equally
frequent costs ln K. The release norms the mean of the tokens; here each token has the norm of the encoder.

Shapes: B samples, N tokens, D encoder width, K classes.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Step, System, Tokens, UserError, functional
from polymask.nn.blocks import CrossBlock, initialise
from polymask.nn.mixup import Mixup, require_grid
from polymask.nn.teachers import EMATeacher
from polymask.protocols import Encoder, Tokenizer, sample_ids
from polymask.types import Count, Fact, NotNegative, Share


class Supervised(System):
    """An encoder with a linear classifier, trained on labels.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes all tokens.
        classes: number of classes, from the data.
        pool: what is classified: the ``"mean"`` over tokens; ``"prefix"``, the class token; or what a learned
            query finds by ``"attention"`` to all tokens and a feed-forward layer.
        label_smoothing: probability that is spread evenly over all classes, in [0, 1).
        mixup: alpha of the Beta distribution of shares that samples are mixed by; 0 for none.
        cutmix: the same where a box of one sample is put into another; by turns where both are on.
        frozen: leave the encoder as it is, and train what pools and classifies alone: attentive probing with
            ``pool="attention"``.
        layer_decay: factor on the learning rate from each block to the one before it, in (0, 1].
        ema: momentum of an average of all weights, which predicts in place of the last; 0 for none.
    """

    supervised = True

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        classes: Fact[Count] = 10,
        pool: Literal["mean", "prefix", "attention"] = "mean",
        label_smoothing: Share = 0.0,
        mixup: NotNegative = 0.0,
        cutmix: NotNegative = 0.0,
        frozen: bool = False,
        layer_decay: Share = 1.0,
        ema: Share = 0.0,
    ) -> None:
        super().__init__()
        if pool not in ("mean", "prefix", "attention"):
            raise UserError(f"pool={pool!r}: choose 'mean', 'prefix' or 'attention'")
        if pool == "prefix" and not encoder.prefix:
            raise UserError("pool='prefix': this encoder has no class token; use pool='mean'")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        if not 0 < layer_decay <= 1:
            raise UserError(f"layer_decay must lie in (0, 1], got {layer_decay}")
        if frozen and layer_decay < 1:
            raise UserError("layer_decay: a frozen encoder has no learning rates; give --layer_decay 1")
        network: Any = encoder
        self.tokenizer, self.encoder = tokenizer, network
        self.pool, self.label_smoothing, self.layer_decay = pool, label_smoothing, layer_decay
        self.pooler = pooler_of(pool, encoder.out_dim)
        self.head = nn.Linear(encoder.out_dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        if frozen:
            network.requires_grad_(False)
        self.mix = Mixup(mixup, cutmix) if mixup or cutmix else None
        self.average: EMATeacher | None = None
        if ema:
            parts: Any = {"encoder": self.encoder, "pooler": self.pooler, "head": self.head}
            self.average = EMATeacher(nn.ModuleDict(parts), momentum=ema, curve="warm")
        if layer_decay < 1:
            by_depth(encoder)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens, label_B = self.tokenizer(batch), batch["label"]
        if self.mix is not None:
            require_grid(tokens)
        if self.mix is None or not self.training:
            loss_B = self.loss(_logits(self, tokens), label_B)
            return {"classification": Mask(label_B >= 0).mean(loss_B)}
        tokens, share_B = self.mix(tokens, sample_ids(batch), step)
        logits_BK, other_B = _logits(self, tokens), label_B.flip(0)
        loss_B = torch.lerp(self.loss(logits_BK, other_B), self.loss(logits_BK, label_B), share_B)
        return {"classification": Mask((label_B >= 0) & (other_B >= 0)).mean(loss_B)}

    def loss(self, logits_BK: Tensor, label_B: Tensor) -> Tensor:
        """Cross-entropy of each sample with its smoothed label, float32 ``[B]``."""
        label_B = label_B.clamp(min=0)
        return F.cross_entropy(
            logits_BK.float(), label_B, reduction="none", label_smoothing=self.label_smoothing
        )

    def after_step(self, step: Step) -> None:
        if self.average is not None:
            parts: Any = {name: getattr(self, name) for name in ("encoder", "pooler", "head")}
            self.average.follow(nn.ModuleDict(parts), step)

    @property
    def classifier(self) -> Any:
        """What predicts: it has ``encoder``, ``pooler`` and ``head``, of the average where there is one."""
        return self if self.average is None else self.average.module

    @property
    def backbone(self) -> Encoder:
        """The encoder of what predicts."""
        encoder: Encoder = self.classifier.encoder
        return encoder

    def classify(self, batch: Batch) -> Tensor:
        """Logits ``[B, classes]``."""
        return self.logits(self.tokenizer(batch))

    def logits(self, tokens: Tokens) -> Tensor:
        """Logits ``[B, classes]`` of tokens; those that are not valid do not count."""
        return _logits(self.classifier, tokens)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Blocks of the encoder, and what is below them, by their learning rates."""
        if self.layer_decay == 1:
            return []
        *below, _ = by_depth(self.encoder)
        return [
            {"params": parameters, "lr_scale": self.layer_decay ** (len(below) - k)}
            for k, parameters in enumerate(below)
        ]

    @torch.no_grad()
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        label_B = batch["label"]
        right_B = (self.classify(batch).argmax(dim=1) == label_B).float()
        return {"training_accuracy": Mask(label_B >= 0).mean(right_B)}


def pooler_of(pool: str, dim: int) -> nn.Module:
    """What makes one vector of encoded tokens of a width."""
    return AttentionPool(dim) if pool == "attention" else Pool(pool)


class Pool(nn.Module):
    """One vector per sample, see :meth:`polymask.Tokens.pool`."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, tokens: Tokens) -> Tensor:
        """``[B, D]``."""
        return tokens.pool(self.how)


class AttentionPool(nn.Module):
    """A learned query that attends to all tokens, then a feed-forward layer (Bardes et al. 2024, V-JEPA).

    Args:
        dim: width.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(dim))
        self.block = CrossBlock(dim, math.gcd(dim, 8), dim)
        initialise(self)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, tokens: Tokens) -> Tensor:
        """``[B, D]``."""
        x_BND = tokens.values
        attend = None if tokens.valid is None else tokens.valid[:, None, None, :]
        # by shape: `len` would fix the number of rows of an exported graph
        query_B1D = self.query.to(x_BND.dtype).expand(x_BND.shape[0], 1, -1)
        found: Tensor = self.block(query_B1D, x_BND, attend)
        return found[:, 0]


def _logits(net: Any, tokens: Tokens) -> Tensor:
    """``[B, K]``."""
    logits: Tensor = net.head(net.pooler(functional.encode_grid(net.encoder, tokens)))
    return logits


def by_depth(encoder: Encoder) -> list[list[nn.Parameter]]:
    """Parameters before the blocks of an encoder, those of each block, and those behind the last.

    What lies between two blocks, in the order of registration, counts as the one before it.

    Raises:
        UserError: it has no blocks.
    """
    own: Any = encoder
    blocks = list(getattr(own, "blocks", ()))
    if not blocks:
        raise UserError(
            f"layer_decay needs an encoder that tells its blocks apart, and {type(encoder).__name__} does "
            "not: give --layer_decay 1"
        )
    depth = {parameter: k for k, block in enumerate(blocks, start=1) for parameter in block.parameters()}
    found: list[list[nn.Parameter]] = [[] for _ in range(len(blocks) + 2)]
    now = 0
    for parameter in own.parameters():
        now = depth.get(parameter, now + (now == len(blocks)))
        found[now].append(parameter)
    return found
