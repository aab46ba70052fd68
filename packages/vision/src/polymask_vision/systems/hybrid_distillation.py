"""Hybrid Distillation: two teachers, one for what tokens are, one for how they relate (Shi et al. 2023).

arXiv 2306.15876. A student copies the last features of a teacher that tells classes apart, and in the two
blocks before its last how the tokens of a masked autoencoder relate, so that its attention does not collapse
as that of the first teacher does. Redundant patches, those most like the mean of all, are left out: the
student encodes the rest alone, and has neither mask tokens nor a decoder.

    polymask recipe vision/hybrid-distillation --data fashion-mnist
    polymask pretrain vision/hybrid-distillation --preset small --data fashion-mnist --target.run FOLDER
        --relation_target.run FOLDER

The recipe trains a teacher on the labels of the data and a masked autoencoder, then their student, and probes
all three. Other teachers are runs and Vision Transformers of timm and of transformers (``--target.model
NAME``, ``--relation_target.model NAME``). A student is about as good as the teacher of its features: compare
it with ``--relation_weights 0,0``, which has that teacher alone. Reports show attention span and mutual
information of all three by block.

No code was released and the settings of the paper could not be read, so these are choices here, and options:
products of queries and keys as they are (``relation_kind``), in the two blocks before the last
(``relation_target.layers``), compared by smooth L1; features whitened (``target.norm``) and predicted by a
linear map (``head``) from what the encoder gives; patches left out after the first block of the relation
teacher and those at one and two thirds of its depth (``stages``), likeness being the cosine to the mean of
patches of length 1; 0.87 of them stay each time (``keep_share``), about two thirds in all. The relation
teacher itself sees all patches. Weights of 1 are confirmed. ``--masking core/random --masking.ratio 0.34``
leaves as many out at random.

Raw products outweigh the features: untrained at preset ``small``, each layer of them has 6 to 14 times their
gradient, and with ``--relation_kind scaled``, which that preset therefore has, 1 to 2 times.

Shapes: B samples, N tokens, K of them kept (class token included, where all have one), D student width, H
heads, T target width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, MaskView, Preview, Step, System, Tokens, UserError, functional
from polymask.config import relative_to_run
from polymask.maskings.choose import hide_last, share, unique_keys
from polymask.nn.blocks import initialise
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.recipes import Stage
from polymask.types import Count, NotNegative, Share
from polymask_vision.attention import Relation, queries_keys, relation
from polymask_vision.depth import lines_by_depth, network_lines, side_by_side
from polymask_vision.targets import led


class HybridDistillation(System):
    """Matches features of one frozen teacher and relations of tokens of another, where not redundant.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes the tokens that are kept; one that lets its blocks be run, such as vision/vit.
        target: features of each token (paper: of the last block of a supervised or contrastive teacher).
        relation_target: queries and keys of each token, of one layer or of several side by side, and states
            to find redundant tokens by: vision/relations (paper: of a masked autoencoder).
        objective: how features are scored.
        relation_objective: how relations of pairs of tokens are scored.
        masking: what to hide in place of redundant tokens.
        score: score per token, for a ``masking`` that needs one.
        relation_weights: weight of each layer of relations (paper: 1 and 1).
        relation_kind: what is compared of a pair: the ``"raw"`` product of query and key, ``"scaled"`` by the
            root of their width, or ``"attention"``, its softmax over the kept tokens.
        relation_heads: ``"each"`` head with that of the teacher, or their ``"mean"``, which allows for other
            numbers of heads.
        head: ``"linear"`` map from the student's width to the target's, or ``"none"``.
        stages: blocks of the relation teacher, from 1, behind which redundant tokens are left out; None for
            the first and those a third and two thirds of its depth later.
        keep_share: share of the tokens left that each stage keeps.
    """

    leaves_out = True

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        target: Target,
        relation_target: Target,
        objective: Objective,
        relation_objective: Objective,
        masking: Masking | None = None,
        score: Target | None = None,
        relation_weights: tuple[NotNegative, ...] = (1.0, 1.0),
        relation_kind: Relation = "raw",
        relation_heads: Literal["each", "mean"] = "each",
        head: Literal["linear", "none"] = "linear",
        stages: tuple[Count, ...] | None = None,
        keep_share: Share = 0.87,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.objective, self.score = masking, objective, score
        self.relation_target, self.relation_objective = relation_target, relation_objective
        self.weights, self.kind, self.relation_heads = relation_weights, relation_kind, relation_heads
        self.keep_share = keep_share
        student: Any = encoder
        teacher: Any = relation_target
        if not hasattr(student, "begin"):
            raise UserError(
                f"hybrid-distillation matches relations within blocks, and {type(encoder).__name__} does not "
                "show them: use vision/vit"
            )
        if not hasattr(teacher, "heads"):
            raise UserError(
                f"{type(teacher).__name__} gives no queries and keys: use --relation_target vision/relations"
            )
        for name, given, known in (
            ("relation_kind", relation_kind, get_args(Relation)),
            ("relation_heads", relation_heads, ("each", "mean")),
            ("head", head, ("linear", "none")),
        ):
            if given not in known:
                raise UserError(f"{name}={given!r}: choose of {', '.join(known)}")
        if len(relation_weights) != len(teacher.layers):
            raise UserError(f"relation_weights={relation_weights}: give one for each of {teacher.layers}")
        behind = teacher.depth - len(student.blocks)
        self.blocks = tuple(layer - behind for layer in teacher.layers)
        if min(self.blocks) < 1:
            raise UserError(
                f"blocks {teacher.layers} of the relation teacher's {teacher.depth} have no match, counted "
                f"from the last, in an encoder of {len(student.blocks)}: use a greater --encoder.depth, or "
                "other --relation_target.layers"
            )
        heads = student.blocks[0].attn.num_heads
        if relation_heads == "each" and heads != teacher.heads and any(relation_weights):
            raise UserError(
                f"the encoder has {heads} attention heads, the relation teacher {teacher.heads}: use "
                f"--encoder.heads {teacher.heads}, or --relation_heads mean"
            )
        third = teacher.depth // 3
        self.stages = (1, 1 + third, 1 + 2 * third) if stages is None else stages
        if not self.stages or max(self.stages) > teacher.depth or keep_share == 0:
            raise UserError(
                f"stages={self.stages}, keep_share={keep_share}: give blocks from 1 to {teacher.depth} and a "
                "share above 0; to leave nothing out, --keep_share 1"
            )
        if head == "none" and encoder.out_dim != target.dim:
            raise UserError(
                f"head='none', and the encoder is {encoder.out_dim} wide, the target {target.dim}: use "
                f"--head linear, or --encoder.dim {target.dim}"
            )
        self.head = nn.Identity() if head == "none" else nn.Linear(encoder.out_dim, target.dim)
        initialise(self.head)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        relations, states = self.relate(batch, tokens)
        mask = self.mask(states, tokens, batch, step)
        predicted_BKT, wanted, encoded = self.predict(batch, tokens, mask)
        losses = {"features": functional.masked_loss(self.objective, predicted_BKT, wanted)}
        pairs = zip(self.weights, self.blocks, self.relations(relations, encoded, mask), strict=True)
        for weight, block, (own_BPH, theirs_BPH, real) in pairs:
            if weight:
                loss = self.relation_objective(own_BPH, theirs_BPH, real)
                losses[f"relations {block}"] = weight * loss
        return losses

    @torch.no_grad()
    def relate(self, batch: Batch, tokens: Tokens) -> tuple[Tokens, list[Tensor]]:
        """Queries and keys of the whole image, and the states ``[B, N, .]`` that tell what is redundant."""
        teacher: Any = self.relation_target
        relations, states = teacher.relate(batch, tokens, self.stages)
        return relations, states

    def mask(self, states: list[Tensor], tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        """What is redundant, or what the masking hides."""
        if self.masking is None:
            return redundant(states, self.keep_share)
        return super().draw(tokens, batch, step, stream)

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        states = [] if self.masking is not None else self.relate(batch, tokens)[1]
        return self.mask(states, tokens, batch, step, stream)

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        tokens = self.tokenizer(batch)
        return {"mask": MaskView(self.draw(tokens, batch, step), tokens)}

    def predict(self, batch: Batch, tokens: Tokens, mask: Mask) -> tuple[Tensor, Tokens, list[Tensor]]:
        """Predicted and wanted features of the kept tokens, and the input of each of the student's blocks.

        Returns:
            ``[B, K, T]`` and tokens of it; ``[B, prefix + K, D]`` for each block, and what leaves the last.
        """
        teacher: Any = self.target
        with torch.no_grad():
            if hasattr(teacher, "look"):
                whole = teacher.look(batch, tokens)[0]
            else:
                whole = Tokens(teacher(batch, tokens), tokens.position)
        encoder: Any = self.encoder
        states = functional.encode_states(encoder, mask.keep(tokens))
        wanted = mask.keep(whole)
        encoded_BKD = self.with_class(encoder.norm(states[-1]), wanted)
        return self.head(encoded_BKD), led(wanted, encoder.prefix > 0), states

    def with_class(self, x: Tensor, theirs: Tokens, dim: int = 1) -> Tensor:
        """The student's class token, if the teacher has one, and its other tokens, along an axis."""
        r = self.encoder.prefix
        lead = min(r, 0 if theirs.prefix is None else 1)
        return torch.cat([x.narrow(dim, 0, lead), x.narrow(dim, r, x.shape[dim] - r)], dim=dim)

    def relations(
        self, relations: Tokens, states: list[Tensor], mask: Mask
    ) -> Iterator[tuple[Tensor, Tensor, Mask | None]]:
        """The student's and the teacher's relations by layer, ``[B, K * K, H]`` each, and what is no padding.

        Args:
            relations: of the teacher, of all tokens.
            states: see :meth:`predict`.
            mask: the tokens left out.
        """
        teacher: Any = self.relation_target
        encoder: Any = self.encoder
        kept = mask.keep(relations)
        wanted = led(kept, encoder.prefix > 0)
        both = None if wanted.valid is None else wanted.valid[:, :, None] & wanted.valid[:, None]
        layers = wanted.values.chunk(len(teacher.layers), dim=-1)
        for block, layer_BKC in zip(self.blocks, layers, strict=True):
            b, n, _ = layer_BKC.shape
            theirs = layer_BKC.view(b, n, 2, teacher.heads, -1).permute(2, 0, 3, 1, 4).unbind()
            both_own = queries_keys(encoder.blocks[block - 1], states[block - 1])
            own = [self.with_class(x, kept, 2) for x in both_own]
            found = [relation(q, k, self.kind, both) for q, k in (own, theirs)]
            if self.relation_heads == "mean":
                found = [x.mean(1, keepdim=True) for x in found]
            ours, wanted_BPH = (x.flatten(2).transpose(1, 2) for x in found)
            yield ours, wanted_BPH, None if both is None else Mask(both.flatten(1))

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        media: dict[str, Any] = {}
        inverse: Any = getattr(self.tokenizer, "inverse", None)
        if inverse is not None:
            blank = tokens.values.new_zeros(1)
            predicted_BKT, wanted, _ = self.predict(batch, tokens, mask)
            error_BK = (predicted_BKT.float() - wanted.values).square().mean(-1)
            error_BK = error_BK[:, -mask.keep(tokens).shape[1] :]
            error_BN = mask.restore(error_BK[..., None], blank)[..., 0]
            media["original"] = inverse(tokens.values)
            media["kept"] = inverse(mask.fill(tokens.values, blank))
            errors = functional.bright(error_BN, tokens, mask.invert())
            media["error of the features (bright: large)"] = inverse(errors)
        lines = {"student": lines_by_depth(self.encoder, tokens)}
        teachers: dict[str, Any] = {"features": self.target, "relations": self.relation_target}
        for name, target in teachers.items():
            if hasattr(target, "network"):
                lines[f"teacher of {name}"] = network_lines(target.network.module, batch, tokens)
        return Preview(media, side_by_side(lines))


def redundant(states: Sequence[Tensor], keep_share: float) -> Mask:
    """Hide the patches most like the mean of those left, a share of these after each of some blocks.

    A function of each image alone; of patches that are equally alike, later ones are hidden first. All images
    keep as many.

    Args:
        states: ``[B, N, D]`` of patches, one for each stage.
        keep_share: of the patches left that each stage keeps, rounded, and at least one.
    """
    b, n, _ = states[0].shape
    kept, mask = n, Mask(torch.zeros(b, n, dtype=torch.bool, device=states[0].device), n)
    for x_BND in states:
        unit_BND = F.normalize(x_BND.float(), dim=-1)
        mean_BD = mask.fill(unit_BND, unit_BND.new_zeros(1)).sum(1) / kept
        alike_BN = (unit_BND * mean_BD[:, None]).sum(-1)
        keys_BN = unique_keys(torch.zeros_like(mask.hidden, dtype=torch.int64), alike_BN)
        kept = max(share(keep_share, kept), 1)
        mask = hide_last(keys_BN.masked_fill(mask.hidden, torch.iinfo(torch.int64).max), n - kept)
    return mask


def hybrid_distillation(stage: Stage, /, *, preset: str = "small", steps: Count | None = None) -> None:
    """A teacher trained on labels, a masked autoencoder, and a student of both.

    Args:
        stage: trains a run.
        preset: of all stages.
        steps: of each stage; by default the preset's.
    """
    length = {} if steps is None else {"steps": steps}
    features = stage("feature-teacher", "vision/supervised", preset=preset, **length)
    relations = stage("relation-teacher", "vision/mae", preset=preset, **length)
    student = {
        "target": {"name": "vision/teacher", "run": relative_to_run(features.folder.name)},
        "relation_target": {"name": "vision/relations", "run": relative_to_run(relations.folder.name)},
    }
    stage("student", "vision/hybrid-distillation", preset=preset, **student, **length)
