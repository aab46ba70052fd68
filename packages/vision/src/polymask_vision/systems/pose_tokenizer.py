"""The pose tokenizer of PreViPS: that of PCT (Geng et al. 2023, arXiv 2303.11638), without image features.

Name each pose by several codes of one book, chosen so that the whole pose can be read off them, also where
some joints were not seen.

    polymask pretrain vision/pose-tokenizer --preset small --data camera-poses

Joints lie in the box of their person. A mixer over joints makes as many vectors as there are codes; gradient
passes the choice straight through, and codes are moving averages of what chose them. A masking hides joints
(PCT: 20 %), for which one learned vector stands, and which are to be read off the codes like the others. The
mean pose costs about 0.03 by the smooth error of PCT; beside it stands how far vectors are from their codes.

PCT mixes in features of the image too, and names poses of a bottom-up or top-down detector; that PreViPS
leaves them out could not be verified. Codes that nothing chooses begin anew, which PCT does not say.

Shapes: B samples, N joints of a sample, R poses, J joints of one, M codes of one, D code width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymask import (
    Batch,
    Losses,
    Mask,
    Preview,
    Step,
    System,
    Tokens,
    UserError,
    functional,
    sample_ids,
)
from polymask.protocols import Masking, Objective, Tokenizer
from polymask.types import Count, NotNegative, Share
from polymask_vision.pose_codes import PoseCoder
from polymask_vision.poses import Figures
from polymask_vision.stick_figures import storyboards


class PoseTokenizer(System):
    """Vector quantisation of poses, each by several codes.

    Args:
        tokenizer: makes a token of each joint of each person.
        masking: joints to hide from the encoder.
        objective: how a joint is scored, in sides of a person's box (PCT: smooth, of 0.05).
        codes: how many there are.
        pose_tokens: how many of them name one pose.
        dim: width of a code, and of the encoder.
        depth: mixer blocks of the encoder.
        decoder_dim: width of the decoder.
        decoder_depth: its mixer blocks.
        token_hidden: width of the MLPs across joints.
        channel_hidden: width of the MLPs across channels.
        decay: weight of a code's past at each step.
        commitment: weight of the mean square of what a vector and its code differ by (PCT: 15; under less,
            as in the preset ``small``, poses begin to differ sooner).
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        masking: Masking,
        objective: Objective,
        codes: Count = 2048,
        pose_tokens: Count = 34,
        dim: Count = 512,
        depth: Count = 4,
        decoder_dim: Count = 32,
        decoder_depth: Count = 1,
        token_hidden: Count = 64,
        channel_hidden: Count = 512,
        decay: Share = 0.9,
        commitment: NotNegative = 15.0,
    ) -> None:
        super().__init__()
        facts = tokenizer.provides
        if facts["in_dim"] != 2 or "joints" not in facts:
            raise UserError(
                f"pose-tokenizer names poses joint by joint, and {type(tokenizer).__name__} makes tokens of "
                f"{facts['in_dim']} numbers: use --tokenizer vision/poses --tokenizer.each joint"
            )
        self.tokenizer, self.masking, self.objective = tokenizer, masking, objective
        self.commitment = commitment
        self.coder = PoseCoder(
            joints=facts["joints"],
            tokens=pose_tokens,
            codes=codes,
            dim=dim,
            depth=depth,
            decoder_dim=decoder_dim,
            decoder_depth=decoder_depth,
            token_hidden=token_hidden,
            channel_hidden=channel_hidden,
            decay=decay,
        )

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        z_RMD = self.points(tokens, self.draw(tokens, batch, step))
        ids_RM = self.coder.codebook.nearest(z_RMD)
        real_BR = self.persons(tokens)
        if self.training and torch.is_grad_enabled():
            rows, real_BN = len(real_BR), real_BR.repeat_interleave(z_RMD.shape[1], dim=1)
            vectors, ids = z_RMD.reshape(rows, -1, self.coder.dim), ids_RM.view(rows, -1)
            self.coder.codebook.watch(vectors, ids, real_BN, step, sample_ids(batch))
        code_RMD = self.coder.vectors(ids_RM)
        guess_BN2 = self.coder.decode(z_RMD + (code_RMD - z_RMD).detach()).view_as(tokens.values)
        off_BR = (z_RMD - code_RMD).square().mean((1, 2)).view_as(real_BR)
        return {
            "joints": self.objective(guess_BN2, tokens.values, Mask(tokens.real)),
            "commitment": self.commitment * Mask(real_BR).mean(off_BR),
        }

    def after_step(self, step: Step) -> None:
        self.coder.codebook.follow()

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        mask = super().draw(tokens, batch, step, stream)
        return functional.require_hard_mask("pose-tokenizer", self.masking, mask)

    def points(self, tokens: Tokens, mask: Mask | None = None) -> Tensor:
        """What codes are chosen for, ``[R, M, D]``, of joints that are seen and not hidden."""
        shown_BN = tokens.real if mask is None else tokens.real & ~mask.hidden
        joints, count = tokens.values, self.coder.joints
        return self.coder.points(joints.reshape(-1, count, 2), shown_BN.reshape(-1, count))

    def persons(self, tokens: Tokens) -> Tensor:
        """Which poses are of somebody who is seen, bool ``[B, R / B]``."""
        return tokens.real.view(len(tokens.values), -1, self.coder.joints).any(-1)

    def encode(self, batch: Batch) -> Tokens:
        """Of each person at each time all vectors that codes are chosen for, side by side."""
        tokens = self.tokenizer(batch)
        z_BRF = self.points(tokens).reshape(len(tokens.values), -1, self.coder.tokens * self.coder.dim)
        place = tokens.position[:, :: self.coder.joints, :-1]
        return Tokens(z_BRF, place, valid=self.persons(tokens))

    def read(self, tokens: Tokens, mask: Mask | None = None) -> Tensor:
        """Poses as their codes say, ``[B, N, 2]``, in the boxes of their persons."""
        ids_RM = self.coder.codebook.nearest(self.points(tokens, mask))
        return self.coder.decode(self.coder.vectors(ids_RM)).view_as(tokens.values)

    @torch.no_grad()
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """How many codes are in use, and how far joints are off, seen and hidden, in sides of their box."""
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        off_BN = (self.read(tokens, mask) - tokens.values).norm(dim=-1)
        return {
            "codes in use": self.coder.codebook.perplexity,
            "error of visible joints": mask.invert().mean(off_BN),
            "error of hidden joints": mask.mean(off_BN),
        }

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens, figures = self.tokenizer(batch), Figures.of(batch)
        mask = self.draw(tokens, batch, step)
        shape = figures.seen.shape
        seen, shown = figures.seen, figures.seen & ~mask.hidden.view(shape)
        everywhere = seen.any(-1, keepdim=True).expand(shape)
        guess = figures.placed(self.read(tokens, mask).view_as(figures.joints))
        return Preview(
            {
                "poses": storyboards(batch["pose"], seen),
                "limbs with visible joints": storyboards(batch["pose"], shown),
                "read off their codes": storyboards(guess, everywhere),
            }
        )
