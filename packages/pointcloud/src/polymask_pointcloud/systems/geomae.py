"""GeoMAE: Masked Geometric Target Prediction for point clouds (Tian et al. 2023, arXiv 2305.08808).

Hide 70 % of the occupied pillars, encode the others, and let two decoders predict the geometry of the hidden
ones: where the points of each lie (centroids and occupancy of its slots, at several scales) and how the
surface around each runs (its normal and its curvature).

    polymask pretrain pointcloud/geomae --preset small --data shapes

Chance costs, before the weights: 1/12 per centroid of points spread evenly, the entropy of how often a slot
is occupied, 2/3 per normal of any direction. Each slot counts once, in the whole batch; an empty one has no
centroid to predict. Tokens are any that have a box or points: pillars, voxels (the preset ``small``: a
pillar through a shape holds its top and its bottom) or groups.

The published encoder attends within windows of 12 x 12 pillars and shifts them; here any encoder of the
visible tokens does, which is quadratic in their number. Blocks take norms first and positions once, tokens
are embedded by the encoder's own PointNet, and one linear layer stands before the decoders, as in MAE. The
release gives occupancy two logits a slot, for empty and occupied, which is one logit counted twice. Where
it differs from the paper, options bring it back:

- it scores normals by squared error though their sign is arbitrary: ``--normal_objective core/mse
  --normal_target.sign none``. With ``outward`` or ``up`` the sign is settled. By default it is ignored.
- its curvature never reaches the loss: ``--curvature_weight 0``. The weight 4 here is that of the normal;
  what the paper used is unverified.
- it centres a surface on the token: ``--normal_target.centre token --curvature_target.centre token``.
- it scores surfaces of one or two places, which have none: ``--normal_target.least 1``, and of curvature.

A step of ``small``, 16 shapes, takes some 0.3 seconds on a core, 1.6 times that of ``pointcloud/mae`` of the
same tokens (its preset ``small-voxels``); a sixth of it computes the targets. What several targets share,
slots and the shape around a token, is computed once. ``forward`` waits for the device to count the tokens of
a batch, so it does not compile as one graph, except with groups of clouds of one length.

Shapes: B samples, N tokens, M of them hidden, S parts of a token, D numbers about each, T of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, UserError, functional
from polymask.nn.decoders import LightDecoder
from polymask.objectives import BinaryCrossEntropy
from polymask.protocols import Encoder, Masking, Media, Objective, Target, Tokenizer
from polymask.types import Count, Positive, Whole
from polymask_pointcloud.pictures import with_normals, with_places
from polymask_pointcloud.slots import Given
from polymask_pointcloud.targets import Answers, answers_of, keep_answers, parts_of

DECODERS = {"place": ("centroid", "occupancy"), "surface": ("normal", "curvature")}
"""What each decoder predicts."""


class Term(NamedTuple):
    """One scale of one target: a token has ``parts`` of it, with ``width`` numbers about each."""

    name: str
    kind: str
    scale: int
    weight: float
    parts: int
    width: int


class GeoMAE(System):
    """Masked autoencoder of geometry, on any tokens of points.

    Each target is an option with an objective and a weight for each of its scales; what weighs 0 is not
    predicted, and a decoder with nothing to predict is not built.

    Args:
        tokenizer: cuts the cloud into tokens.
        encoder: encodes the visible tokens alone.
        masking: what to hide (paper: 70 %, each pillar alike).
        centroid_target: where the points of each slot lie on average.
        occupancy_target: which slots hold points.
        normal_target: how the surface faces.
        curvature_target: how it bends.
        centroid_objective: how each is scored (release: squared error).
        occupancy_objective: the same (release: binary cross-entropy).
        normal_objective: the same (release: squared error, see above).
        curvature_objective: the same.
        score: evidence per token for maskings that go by score; None for those that do not.
        centroid_weights: of the scales of the centroids (release: 128 slots, 16, the token).
        occupancy_weights: of the scales of the occupancy (release: 128 slots, 16).
        normal_weight: of the normal.
        curvature_weight: of the curvature.
        decoder_dim: width of both decoders (release: that of the encoder).
        decoder_depth: blocks of each (release: two pairs).
        decoder_heads: attention heads of each.
        decoder_mlp_ratio: width of their feed-forward layers over ``decoder_dim`` (release: 2).
    """

    leaves_out = True

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        masking: Masking,
        centroid_target: Target,
        occupancy_target: Target,
        normal_target: Target,
        curvature_target: Target,
        centroid_objective: Objective,
        occupancy_objective: Objective,
        normal_objective: Objective,
        curvature_objective: Objective,
        score: Target | None = None,
        centroid_weights: Sequence[float] = (10.0, 8.0, 10.0),
        occupancy_weights: Sequence[float] = (5.0, 2.0),
        normal_weight: float = 4.0,
        curvature_weight: float = 4.0,
        decoder_dim: Count = 128,
        decoder_depth: Whole = 4,
        decoder_heads: Count = 8,
        decoder_mlp_ratio: Positive = 4.0,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.masking, self.score = tokenizer, encoder, masking, score
        self.centroid_target, self.occupancy_target = centroid_target, occupancy_target
        self.normal_target, self.curvature_target = normal_target, curvature_target
        self.centroid_objective, self.occupancy_objective = centroid_objective, occupancy_objective
        self.normal_objective, self.curvature_objective = normal_objective, curvature_objective
        weights = {
            "centroid": centroid_weights,
            "occupancy": occupancy_weights,
            "normal": (normal_weight,),
            "curvature": (curvature_weight,),
        }
        terms = {
            name: [term for kind in kinds for term in terms_of(kind, self.target(kind), weights[kind])]
            for name, kinds in DECODERS.items()
        }
        self.terms = {name: found for name, found in terms.items() if found}
        if not self.terms:
            raise UserError("geomae has nothing to predict: give one of its targets a weight above 0")
        self.decoders = nn.ModuleDict()
        for name, found in self.terms.items():
            out_dim = sum(term.parts * term.width for term in found)
            decoder = LightDecoder.behind(
                encoder,
                tokenizer,
                out_dim,
                dim=decoder_dim,
                depth=decoder_depth,
                heads=decoder_heads,
                mlp_ratio=decoder_mlp_ratio,
            )
            # both read one sequence; only their blocks and heads are their own
            first: Any = next(iter(self.decoders.values()), decoder)
            decoder.embed, decoder.mask_token = first.embed, first.mask_token
            self.decoders[name] = decoder

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        guesses = self.predict(tokens, mask)
        answers = keep_answers(self.answers(batch, tokens), tokens, mask.invert())
        return {term.name: self.score_term(term, guesses[term], answers[term]) for term in guesses}

    def target(self, kind: str) -> Target:
        """What is asked of a kind of terms."""
        target: Target = getattr(self, f"{kind}_target")
        return target

    def predict(self, tokens: Tokens, mask: Mask) -> dict[Term, Tensor]:
        """Predictions at the hidden tokens, ``[B, M, S, D]`` for each term, from the visible ones."""
        encoded = functional.encode_visible(self.encoder, tokens, mask)
        guesses: dict[Term, Tensor] = {}
        for name, terms in self.terms.items():
            guess_BMT = self.decoders[name](encoded, mask, tokens.position)
            shares = torch.split(guess_BMT, [term.parts * term.width for term in terms], dim=-1)
            for term, share in zip(terms, shares, strict=True):
                guesses[term] = share.reshape(*share.shape[:2], term.parts, term.width)
        return guesses

    def answers(self, batch: Batch, tokens: Tokens) -> dict[Term, Answers]:
        """What is so at all tokens, ``[B, N, S, D]`` for each term."""
        terms = [term for found in self.terms.values() for term in found]
        given = Given(batch, tokens)
        told = {kind: answers_of(self.target(kind), given) for kind in {term.kind for term in terms}}
        return {term: told[term.kind][term.scale] for term in terms}

    def score_term(self, term: Term, guess_BMSD: Tensor, answer: Answers) -> Tensor:
        """The weighted loss over all parts in the batch of which something is known."""
        prediction, target = guess_BMSD.flatten(1, 2), answer.values.flatten(1, 2)
        objective: Objective = getattr(self, f"{term.kind}_objective")
        return term.weight * objective(prediction, target, Mask(answer.known.flatten(1)))

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        hidden, columns = mask.invert(), dict[str, Sequence[Media]]()
        told = {
            term: hidden.restore(x.flatten(2), x.new_zeros(1)).view(*tokens.shape, term.parts, term.width)
            for term, x in self.predict(tokens, mask).items()
        }
        least = 0.0 if isinstance(self.occupancy_objective, BinaryCrossEntropy) else 0.5
        for term, x in told.items():
            held = [o for o in told if (o.kind, o.parts) == ("occupancy", term.parts)]
            if term.kind == "centroid" and hasattr(self.centroid_target, "places"):
                shown = told[held[0]][..., 0] > least if held else torch.ones_like(x[..., 0]).bool()
                places = self.centroid_target.places(x, tokens, term.scale)
                what = "the centroid of each token"
                if term.parts > 1:
                    what = f"centroids of its {term.parts} slots" + (", if thought occupied" if held else "")
                columns[f"visible, hidden and predicted: {what}"] = with_places(
                    batch, tokens, mask, places, shown
                )
            if term.kind == "normal":
                true = self.normal_target(batch, tokens)
                how = "the more along x, y and z, the more red, green and blue"
                columns[f"true normals: {how}"] = with_normals(batch, tokens, mask, true)
                columns["predicted normals: in the same colours"] = with_normals(
                    batch, tokens, mask, x[:, :, 0]
                )
        return Preview(columns)


def terms_of(kind: str, target: Target, weights: Sequence[float]) -> list[Term]:
    """A term for each scale of a target that weighs something.

    Raises:
        UserError: a weight below 0, or not one for each scale.
    """
    parts = parts_of(target)
    if len(weights) != len(parts) or any(weight < 0 for weight in weights):
        raise UserError(
            f"{kind}: weights {tuple(weights)} for {len(parts)} scales; give each one of 0 or more"
        )
    return [
        Term(kind if len(parts) == 1 else f"{kind} {scale + 1}", kind, scale, weight, *parts[scale])
        for scale, weight in enumerate(weights)
        if weight > 0
    ]
