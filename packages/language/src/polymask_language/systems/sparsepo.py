"""SparsePO: Controlling Preference Alignment of LLMs via Sparse Token Masks (Christopoulou et al. 2024).

Of two responses to a prompt, one is preferred. Each token of both contributes two terms to the loss, its log
ratio of policy to reference and its KL divergence, both multiplied by weights >= 0 that are computed from the
activations of the frozen reference model (arXiv 2410.05102).

    polymask recipe language/sparsepo --data language/sentiment
    polymask pretrain language/sparsepo --preset small --data language/sentiment \
        --encoder.pretrained FOLDER --data.vocab FOLDER
    polymask evaluate RUN language/preference

The recipe pre-trains, fine-tunes and aligns a model in minutes on two cores. The system alone starts from a
model written by ``polymask export RUN --format transformers``, or from one of the Hugging Face hub. The
reference is a copy of the initial policy: without ``encoder.pretrained`` it is random, for tests only. The
loss starts at ln 2 for any weights, and the weights get gradients only after the policy has moved.

Other methods are special cases of this loss: DPO (Rafailov et al. 2023) is ``--masking
language/constant-weight --kl_masking language/constant-weight --kl_masking.weight 0``; TDPO, first version
(Zeng et al. 2024), ``--masking language/constant-weight``; MaPO ``--masking language/activation-weight``;
SparsePO with separate weights for the divergence ``--kl_masking language/learned-weight``.

With r = log p - log q of a token under policy p and reference q, and KL = KL(q, p) at that token,
the loss is ``-log sigmoid(beta (sum m_r r + m_d KL - the same of the rejected))``: as in TDPO, the policy is
not penalised for moving on the chosen side. Larger weights act like a larger beta, so report the mean weight,
which is logged, with any comparison. Dropout is off in policy and reference, as published; the dropout of the
published scorers has no effect there and is omitted.
The hooks of ``language/activation-weight`` break the graph of ``torch.compile``; everything else compiles.

Shapes: B pairs, R = 2 B rows (chosen, then rejected), N tokens, D width, V vocabulary.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from polymask import Batch, Losses, Mask, MaskView, Preview, Step, System, Tokens, UserError
from polymask.nn.teachers import Frozen
from polymask.protocols import Masking, Media, Target, Tokenizer
from polymask.types import Fact
from polymask_language.display import weighted
from polymask_language.encoders import Causal
from polymask_language.pairs import REJECTED, stack, unstack
from polymask_language.taps import Taps, recording
from polymask_language.tokenizers import draw

AT_ONCE = 1 << 25
"""Maximum number of logits at a time; more are computed in chunks, with activation checkpointing."""


@dataclass(frozen=True)
class Terms:
    """The terms of a preference loss at each token of 2 B responses, 0 elsewhere.

    Args:
        rows: the batch, chosen rows before rejected rows.
        tokens: tokens of the rows.
        scored: bool ``[R, N]``, True at tokens of responses.
        reward: float32 ``[R, N]``, log p - log q.
        divergence: float32 ``[R, N]``, KL(q, p) of the next-token distributions, >= 0.
        likelihood: float32 ``[R, N]``, log q.
        reward_weight: float32 ``[R, N]``, weights of the rewards.
        divergence_weight: float32 ``[R, N]``, weights of the divergences; the same tensor if shared.
    """

    rows: Batch
    tokens: Tokens
    scored: Tensor
    reward: Tensor
    divergence: Tensor
    likelihood: Tensor
    reward_weight: Tensor
    divergence_weight: Tensor


class SparsePO(System):
    """Preference optimisation with a weight on every token.

    Args:
        tokenizer: converts text to tokens.
        encoder: the policy, a causal model with a head; the reference is a copy of its initial weights.
        masking: weights of the rewards, and of the divergences too without ``kl_masking``.
        kl_masking: separate weights of the divergences.
        score: score per token, for maskings that need one and do not compute it from the reference.
        beta: strength of the KL constraint (paper: 0.1, on short reviews 0.8).
        reward_l1: weight of the sum of reward weights (paper: 0, or 0.001).
        kl_l1: the same for the divergence weights; for shared weights, both count by half.
        mask_decay: weight decay of the parameters of the maskings (paper: 0.01).
        tokenizer_file: vocabulary of the data, to display words.
    """

    encoder: Causal

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Causal,
        masking: Masking,
        kl_masking: Masking | None = None,
        score: Target | None = None,
        beta: float = 0.1,
        reward_l1: float = 0.0,
        kl_l1: float = 0.0,
        mask_decay: float = 0.01,
        tokenizer_file: Fact[str | None] = None,
    ) -> None:
        super().__init__()
        if not getattr(encoder, "causal", False):
            raise UserError(
                f"sparsepo aligns a language model, and {type(encoder).__name__} sees tokens that follow: "
                "choose --encoder language/causal"
            )
        if beta <= 0 or min(reward_l1, kl_l1, mask_decay) < 0:
            raise UserError(
                f"beta must be more than 0, reward_l1, kl_l1 and mask_decay 0 or more, got {beta}, "
                f"{reward_l1}, {kl_l1} and {mask_decay}"
            )
        self.tokenizer, self.encoder, self.reference = tokenizer, encoder, Frozen(copy.deepcopy(encoder))
        self.masking, self.kl_masking, self.score = masking, kl_masking, score
        self.beta, self.reward_l1, self.kl_l1, self.mask_decay = beta, reward_l1, kl_l1, mask_decay
        self.tokenizer_file = tokenizer_file
        self._told = False

    def forward(self, batch: Batch, step: Step) -> Losses:
        terms = self.terms(batch, step)
        worth_R = (terms.reward_weight * terms.reward + terms.divergence_weight * terms.divergence).sum(1)
        chosen, rejected = worth_R.chunk(2)
        shared = 0.5 if self.kl_masking is None else 1.0
        sizes_R = (self.reward_l1 * terms.reward_weight + self.kl_l1 * terms.divergence_weight).sum(1)
        return {
            "preference": -F.logsigmoid(self.beta * (chosen - rejected)).mean(),
            "sparsity": 2 * shared * sizes_R.mean(),  # a pair has two rows
        }

    def terms(self, batch: Batch, step: Step) -> Terms:
        """Rewards, divergences and weights of the responses of a batch of pairs."""
        rows = stack(batch)
        tokens = self.tokenizer(rows)
        assert tokens.valid is not None
        # the first token has no context to be predicted from
        scored = (
            rows["response"] & tokens.valid & (torch.arange(tokens.shape[1], device=tokens.valid.device) > 0)
        )
        policy_RND = self.see(self.encoder, tokens)
        reference: Any = self.reference.module
        with torch.no_grad(), recording(reference.model, self.kinds()) as taps:
            reference_RND = self.see(reference, tokens)
        found = self.judge(policy_RND, reference_RND, tokens)
        reward, divergence, likelihood = (torch.where(scored, later(x), 0.0) for x in found)
        drawn = self.weigh(rows, scored, taps, step)
        weights = [torch.cat([mask.hidden.float() for mask in sides]) for sides in drawn]
        return Terms(rows, tokens, scored, reward, divergence, likelihood, weights[0], weights[-1])

    @property
    def maskings(self) -> list[Masking]:
        """One shared masking, or one for rewards and one for divergences."""
        return [self.masking] if self.kl_masking is None else [self.masking, self.kl_masking]

    def kinds(self) -> list[str]:
        """The kinds of reference activations that the maskings read."""
        return list(dict.fromkeys(kind for masking in self.maskings for kind in getattr(masking, "taps", ())))

    def see(self, encoder: Any, tokens: Tokens) -> Tensor:
        """States ``[R, N, D]``."""
        states: Tensor = encoder(encoder.embed(tokens.values), tokens.position, tokens.valid)
        return states

    def judge(self, policy_RND: Tensor, reference_RND: Tensor, tokens: Tokens) -> tuple[Tensor, ...]:
        """Log ratio, divergence and log q of the token after each position, float32 ``[R, N - 1]``."""
        assert tokens.ids is not None
        width = max(1, AT_ONCE // (len(tokens.ids) * len(self.encoder.weight)))
        parts = [
            torch.split(x, width, dim=1)
            for x in (policy_RND[:, :-1], reference_RND[:, :-1], tokens.ids[:, 1:])
        ]
        ratios: Callable[..., tuple[Tensor, ...]] = self.ratios
        if len(parts[0]) > 1:
            ratios = partial(checkpoint, self.ratios, use_reentrant=False, preserve_rng_state=False)
        found = [ratios(*part) for part in zip(*parts, strict=True)]
        return tuple(torch.cat(x, dim=1) for x in zip(*found, strict=True))

    def ratios(self, policy: Tensor, reference: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of states ``[R, n, D]`` and the ids that follow, ``[R, n]``: see :meth:`judge`."""
        frozen: Any = self.reference.module
        log_p = self.encoder.logits(policy).float().log_softmax(-1)
        with torch.no_grad():
            log_q = frozen.logits(reference).float().log_softmax(-1)
        likelihood = log_q.gather(2, ids[..., None])[..., 0]
        reward = log_p.gather(2, ids[..., None])[..., 0] - likelihood
        return reward, (log_q.exp() * (log_q - log_p)).sum(-1), likelihood

    def weigh(self, rows: Batch, scored: Tensor, taps: Taps, step: Step) -> list[list[Mask]]:
        """For each masking, the token weights of the chosen and of the rejected responses.

        The weight of a token is computed from the reference's states at the position before it.
        """
        n = len(scored) // 2
        weights: list[list[Mask]] = []
        for number, masking in enumerate(self.maskings):
            weights.append([])
            for side, batch in enumerate(unstack(rows)):
                part, score = slice(side * n, (side + 1) * n), self.score
                reader: Any = masking
                if hasattr(reader, "evidence"):
                    before = {kind: [later(x[part, :-1]) for x in taps[kind]] for kind in reader.taps}
                    score = reader.evidence(before, scored[part])
                tokens, stream = self.tokenizer(batch), 2 * number + side
                weights[-1].append(
                    draw(masking, tokens, batch, step, (), score, stream, allowed=scored[part])
                )
        return weights

    def parameter_groups(self) -> list[dict[str, Any]]:
        learned = [masking for masking in self.maskings if isinstance(masking, nn.Module)]
        own = [parameter for masking in learned for parameter in masking.parameters()]
        return [{"params": own, "weight_decay": self.mask_decay}] if own else []

    def train(self, mode: bool = True) -> SparsePO:
        """Dropout stays off in the policy."""
        super().train(mode)
        self.encoder.eval()
        return self

    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Pair accuracy, share of terms with a weight above 0, mean weight, share of pairs of no weight."""
        terms = self.terms(batch, step)
        weight = torch.stack([terms.reward_weight, terms.divergence_weight])
        count = 2 * terms.scored.sum().clamp(min=1)
        chosen, rejected = terms.reward.sum(1).chunk(2)
        dead = (weight.sum((0, 2)).view(2, -1).sum(0) == 0).float().mean()
        if dead > 0.5 and not self._told:
            self._told = True
            warnings.warn(
                f"step {step.index}: all weights of {float(dead):.0%} of the pairs are 0, whose loss is ln 2 "
                "and teaches nothing: the masks have died. Lower the learning rate, reward_l1, kl_l1 or "
                "mask_decay, or begin with masking.mixer positive",
                stacklevel=2,
            )
        return {
            "pairs told apart": (chosen > rejected).float().mean(),
            "terms that count": (weight > 0).sum() / count,
            "mean weight": weight.sum() / count,
            "dead pairs": dead,
        }

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        terms = self.terms(batch, step)
        columns: dict[str, Sequence[Media]] = {}
        for what, weight in self.named(terms):
            shown = weighted(self.tokenizer_file, terms.tokens, weight, terms.scored)
            half = len(shown) // 2
            sides = {"chosen": shown[:half], "rejected": shown[half:]}
            columns |= {f"{side}, weight of each {what}": rows for side, rows in sides.items()}
        return Preview(columns)

    @torch.no_grad()
    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        terms, n = self.terms(batch, step), len(batch[self.tokenizer.key])
        chosen, rejected = unstack(terms.rows)
        sides = (("chosen", slice(n), chosen), ("rejected", slice(n, None), rejected))
        return {
            f"{side}, each {what}": MaskView(
                Mask(weight[part], None, terms.scored[part]), self.tokenizer(rows), rows
            )
            for what, weight in self.named(terms)
            for side, part, rows in sides
        }

    def named(self, terms: Terms) -> Iterator[tuple[str, Tensor]]:
        """The weights, by the name of the term that they multiply."""
        yield "token" if self.kl_masking is None else "reward", terms.reward_weight
        if self.kl_masking is not None:
            yield "divergence", terms.divergence_weight

    def example(self, n: int, seed: int = 0) -> Batch:
        """``n`` random pairs of responses to the same prompts of three tokens."""
        batch: Batch = {}
        for side, prefix in enumerate(("", REJECTED)):
            found = self.tokenizer.example(n, 2 * seed + side)
            key = self.tokenizer.key
            found[key][:, :3] = batch.get(key, found[key])[:, :3]
            found["response"] = torch.arange(found[key].shape[1]).expand_as(found[key]) >= 3
            batch |= {f"{prefix}{name}": value for name, value in found.items()}
        return batch


def later(x: Tensor) -> Tensor:
    """Shift next-token values ``[R, N - 1, ...]`` to their tokens, ``[R, N, ...]``; 0 at the first."""
    return torch.cat([torch.zeros_like(x[:, :1]), x], dim=1)
