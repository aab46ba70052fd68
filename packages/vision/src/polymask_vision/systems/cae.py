"""CAE: Context Autoencoder for Self-Supervised Representation Learning (Chen et al. 2022, arXiv 2202.03026).

Encode the visible patches, predict from them, in the encoder's own output space, what the same encoder makes
of the hidden patches alone, and let a decoder that sees nothing but these predictions tell the code of every
hidden patch.

    polymask recipe vision/cae --data fashion-mnist
    polymask pretrain vision/cae --preset small --data fashion-mnist

The recipe fits codes to patches by k-means and trains with them; the paper takes those of DALL-E's tokenizer.
The presets ``small`` and ``tiny`` have random codes, which need no data, so that ``pretrain`` works at once.
Guessing by frequency costs the entropy of the codes, at most ln K of K; the alignment alone can reach 0 by
collapse, from which the codes keep it: training reports the spread of predictions and targets. ``--target
vision/pixels --objective core/mse`` predicts pixels.

Targets of the alignment are made by the encoder itself without gradient, in the mode that it trains in, as
published ("momentum 0"). No loss reads the class token's output.

Shapes: B samples, N tokens, V of them visible, M hidden, D decoder width, K classes or target width.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.drop import DropPath
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, functional
from polymask.config import RunConfig
from polymask.nn.blocks import MLP, CrossAttention, initialise
from polymask.nn.decoders import placed
from polymask.nn.positions import SinCos
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.recipes import Stage
from polymask.types import Count, NotNegative, Positive, Share, Whole
from polymask_vision.codes import fitted


class RegressorBlock(nn.Module):
    """Hidden tokens attend to visible ones and to one another; the residual stream itself is normalised.

    Args:
        dim: width.
        heads: attention heads.
        layer_scale: initial factor on either branch.
        drop_path: stochastic depth rate.
    """

    def __init__(self, dim: int, heads: int, layer_scale: float, drop_path: float) -> None:
        super().__init__()
        self.norm_q, self.norm_k, self.norm_v, self.norm2 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(4))
        self.attn, self.mlp = CrossAttention(dim, heads), MLP(dim)
        self.scale1, self.scale2 = (nn.Parameter(torch.full((dim,), layer_scale)) for _ in range(2))
        self.drop_path = DropPath(drop_path)

    def forward(self, m_BMD: Tensor, z_BVD: Tensor, p_BND: Tensor, attend: Tensor | None) -> Tensor:
        """Hidden tokens and visible ones to hidden tokens; positions are of both, visible first."""
        all_BND = torch.cat([z_BVD, m_BMD], dim=1)
        query = self.norm_q(m_BMD + p_BND[:, z_BVD.shape[1] :])
        # values are without position
        mixed = self.attn(query, self.norm_k(all_BND + p_BND), self.norm_v(all_BND), attend)
        a_BMD = self.norm2(m_BMD + self.drop_path(self.scale1 * mixed))
        out: Tensor = a_BMD + self.drop_path(self.scale2 * self.mlp(a_BMD))
        return out


class CAE(System):
    """Predicts the latents of hidden patches from visible ones, and codes from these latents alone.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes visible tokens, and for the alignment hidden ones, each alone.
        target: which of ``target.dim`` codes each patch has, or values to predict of it.
        masking: what to hide (paper: half of the patches in blocks).
        objective: how codes or values are scored, over hidden tokens.
        align_objective: how predicted latents are scored (paper: mean squared error).
        score: score per token, for maskings that need one.
        align_weight: weight of the alignment (paper: 2).
        decoder_dim: width of regressor and decoder; where it is not the encoder's, a linear map and a norm
            lead to it.
        decoder_heads: their attention heads.
        regressor_depth: blocks of the regressor.
        decoder_depth: blocks of the decoder; 0 predicts codes by a linear map.
        layer_scale: initial factor on the branches of their blocks (paper: 0.1, and 1e-5 for ViT-L).
        drop_path: stochastic depth rate of the last block of either, rising linearly from 0.
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
        align_objective: Objective,
        score: Target | None = None,
        align_weight: NotNegative = 2.0,
        decoder_dim: Count = 768,
        decoder_heads: Count = 12,
        regressor_depth: Count = 4,
        decoder_depth: Whole = 4,
        layer_scale: Positive = 0.1,
        drop_path: Share = 0.0,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.target = tokenizer, encoder, target
        self.masking, self.score = masking, score
        self.objective, self.align_objective, self.align_weight = objective, align_objective, align_weight
        dim, heads = decoder_dim, decoder_heads
        self.project: nn.Module = nn.Identity()
        if dim != encoder.out_dim:
            self.project = nn.Sequential(nn.Linear(encoder.out_dim, dim), nn.LayerNorm(dim, eps=1e-6))
        self.positions = SinCos(dim, tokenizer.provides.get("grid"))
        self.mask_token = nn.Parameter(torch.empty(dim))

        def rates(depth: int) -> list[float]:
            return torch.linspace(0, drop_path, depth).tolist()

        self.regressor = nn.ModuleList(
            RegressorBlock(dim, heads, layer_scale, rate) for rate in rates(regressor_depth)
        )
        self.regressor_norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder = nn.ModuleList(
            Block(dim, heads, qkv_bias=True, init_values=layer_scale, drop_path=rate)
            for rate in rates(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, target.dim)
        for part in (self.project, self.regressor, self.decoder, self.head):
            initialise(part)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, batch: Batch, step: Step) -> Losses:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        predicted = self.regress(tokens, mask)
        hidden = mask.invert().keep(Tokens(self.target(batch, tokens), tokens.position))
        reconstruction = functional.masked_loss(
            self.objective, self.decode(predicted, mask, tokens.position), hidden
        )
        if not self.align_weight:
            return {"reconstruction": reconstruction}
        alignment = functional.masked_loss(self.align_objective, predicted.values, self.latents(tokens, mask))
        return {"reconstruction": reconstruction, "alignment": self.align_weight * alignment}

    def regress(self, tokens: Tokens, mask: Mask) -> Tokens:
        """Predicted latents ``[B, M, D]`` of the hidden tokens, from the visible ones."""
        seen = mask.keep(tokens)
        z_BVD = self.project(functional.encode_tokens(self.encoder, seen)[:, self.encoder.prefix :])
        at_seen, at_hidden = (
            one.keep(placed(self.positions, mask, tokens.position, z_BVD.dtype))
            for one in (mask, mask.invert())
        )
        p_BND, attend = torch.cat([at_seen.values, at_hidden.values], dim=1), None
        if at_hidden.valid is not None:
            attend = torch.cat([at_seen.real, at_hidden.real], dim=1)[:, None, None, :]
        m_BMD = self.mask_token.to(z_BVD.dtype).expand_as(at_hidden.values)
        for block in self.regressor:
            m_BMD = block(m_BMD, z_BVD, p_BND, attend)
        return Tokens(self.regressor_norm(m_BMD), at_hidden.position, valid=at_hidden.valid)

    @torch.no_grad()
    def latents(self, tokens: Tokens, mask: Mask) -> Tokens:
        """What the encoder makes of the hidden tokens alone, ``[B, M, D]``."""
        hidden = mask.invert().keep(tokens)
        encoded = functional.encode_tokens(self.encoder, hidden)[:, self.encoder.prefix :]
        return Tokens(self.project(encoded), hidden.position, valid=hidden.valid)

    def decode(self, latents: Tokens, mask: Mask, position: Tensor) -> Tensor:
        """Logits, or predicted values, ``[B, M, K]``, from latents ``[B, M, D]`` of hidden tokens alone."""
        places = placed(self.positions, mask, position, latents.values.dtype)
        x_BMD = latents.values + mask.invert().keep(places).values
        attend = None if latents.valid is None else latents.valid[:, None, None, :]
        for block in self.decoder:
            x_BMD = block(x_BMD, attn_mask=attend)
        prediction_BMK: Tensor = self.head(self.decoder_norm(x_BMD))
        return prediction_BMK

    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        # one token of each sample, since shorter rows of some maskings are padded
        return {
            "prediction": self.regress(tokens, mask).values[:, 0],
            "target": self.latents(tokens, mask).values[:, 0],
        }

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        prediction_BMK = self.decode(self.regress(tokens, mask), mask, tokens.position)
        prediction_BNK = functional.at_hidden(prediction_BMK, mask)
        return Preview(functional.reconstruction(self.tokenizer, self.target, tokens, mask, prediction_BNK))


def cae(
    stage: Stage,
    /,
    *,
    codes: Count = 512,
    patches: Count = 200_000,
    preset: str = "small",
    system: str = "vision/cae",
    steps: Count | None = None,
) -> None:
    """Fit codes to patches of the training images by k-means, then train a system that predicts them.

    Args:
        stage: trains a run.
        codes: how many (paper: 8,192, of DALL-E's tokenizer).
        patches: how many to cluster, at most.
        preset: of the system.
        system: what is trained; it has slots ``target`` and ``objective``.
        steps: of training; by default the preset's.
    """
    options: dict[str, Any] = {"preset": preset, **({} if steps is None else {"steps": steps})}
    config = RunConfig.resolve({"system": system, "data": stage.given, **stage.shared, **options})
    target = {"name": "vision/codes", "file": fitted(stage, config, codes=codes, patches=patches)}
    stage("pretrain", system, target=target, objective="core/cross-entropy", **options)
