"""Evidence about patches: one number each, for maskings that hide by score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from timm.models import VisionTransformer
from torch import Tensor, nn

from polymask import Tokens, UserError
from polymask.teachers import Frozen
from polymask.types import Count, Fact
from polymask_vision.attention import add_bias, logits


class Variance(nn.Module):
    """Pixel variance of each patch: a score for maskings that hide by score, as contrast does.

    Args:
        in_dim: numbers per token, from the tokenizer.
    """

    dim = 1

    def __init__(self, *, in_dim: Fact[Count] = 768) -> None:
        super().__init__()

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, 1]`` float32."""
        return tokens.values.float().var(dim=-1, keepdim=True)


class Entropy(nn.Module):
    """Entropy of the pixel values of each patch: a score for maskings that hide what is busy.

    Values are sorted into ``bins`` equal steps between the darkest and the brightest of the image.

    Args:
        bins: how many steps.
    """

    dim = 1

    def __init__(self, *, bins: Count = 16) -> None:
        super().__init__()
        if bins < 2:
            raise UserError(f"entropy needs 2 bins or more, got {bins}")
        self.bins = bins

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, 1]`` float32, in nats."""
        x = tokens.values.float()
        low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
        share = (x - low) / (high - low).clamp(min=1e-12)
        step = (share * self.bins).long().clamp(max=self.bins - 1)
        counts = x.new_zeros(*x.shape[:2], self.bins).scatter_add(2, step, torch.ones_like(x))
        entropy: Tensor = torch.special.entr(counts / x.shape[2]).sum(-1, keepdim=True)
        return entropy


class Attention(nn.Module):
    """How much a frozen Transformer attends to each patch of the whole image: a score to hide by.

    Its class token's attention, or what all patches give on average; the mean over heads of one block.

    Args:
        run: folder of a finished run whose encoder looks; it must cut images into the same patches.
        model: a Vision Transformer of timm in its place, by name, or ``local-dir:FOLDER``. It sees images
            resized so that they have one of its patches for each of theirs.
        pretrained: load the weights of ``model``; False for random ones, to try things out.
        block: which block's attention, from 1; None for the last.
        query: whose attention: that of the ``"class"`` token or of all ``"patches"``; None for the class
            token where there is one. One that no loss has taught, as in a run of vision/mae, tells little.
        channels: image channels, from the tokenizer.
        mean: per channel, what was subtracted from values in [0, 1], from the data.
        std: per channel, what they were divided by, from the data.
        key: entry of the batch that holds the images.
    """

    dim = 1

    def __init__(
        self,
        *,
        run: str | None = None,
        model: str | None = None,
        pretrained: bool = True,
        block: int | None = None,
        query: Literal["class", "patches"] | None = None,
        channels: Fact[Count] = 3,
        mean: Fact[Sequence[float] | None] = None,
        std: Fact[Sequence[float] | None] = None,
        key: str = "image",
    ) -> None:
        super().__init__()
        if (run is None) == (model is None):
            raise UserError(
                "whose attention? give --score.run FOLDER or --score.model NAME, one of them, beside --score "
                "vision/attention"
            )
        if query not in (None, "class", "patches"):
            raise UserError(f"query={query!r}: choose 'class' or 'patches'")
        if run is not None:
            looker: _Run | _Timm = _Run(run)
        else:
            assert model is not None
            looker = _Timm(model, pretrained, channels, mean, std, key)
        blocks, self.prefix = looker.blocks, looker.prefix
        name = run or model
        if block is not None and not 1 <= block <= len(blocks):
            raise UserError(f"{name} has blocks 1 to {len(blocks)}, and no block {block}")
        if query == "class" and not self.prefix:
            raise UserError(f"{name} has no class token: use query patches")
        self.of_class = query == "class" or (query is None and self.prefix > 0)
        del blocks[block or len(blocks) :]  # what comes behind is not run
        self.looker = Frozen(looker)

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, 1]`` float32, in [0, 1]."""
        block, x, bias = self.looker(batch, tokens)
        found = logits(block, x).float()
        found = found if bias is None else add_bias(bias, found)
        given_BQK = found.softmax(-1).mean(1)[:, :, self.prefix :]
        paid = given_BQK[:, 0] if self.of_class else given_BQK[:, self.prefix :].mean(1)
        return paid[..., None]


class _Run(nn.Module):
    """Up to the last block of a run's encoder.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str) -> None:
        from polymask.run import Run

        super().__init__()
        system: Any = Run.open(folder).system
        encoder: Any = getattr(system, "encoder", None)
        if not hasattr(encoder, "begin"):
            raise UserError(
                f"{type(encoder).__name__} of the run {folder} does not show its attention: use a run of "
                "vision/vit"
            )
        self.folder, self.tokenizer = folder, system.tokenizer
        self.encoder: Any = encoder

    @property
    def blocks(self) -> Any:
        return self.encoder.blocks

    @property
    def prefix(self) -> int:
        return int(self.encoder.prefix)

    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> tuple[nn.Module, Tensor, Tensor | None]:
        """The last block, its input ``[B, prefix + N, D]`` and what attention adds."""
        own = self.tokenizer(batch)
        if own.shape != tokens.shape or own.grid != tokens.grid:
            raise UserError(
                f"the run {self.folder} cuts an image into {own.grid or own.shape[1]} patches, this system "
                f"into {tokens.grid or tokens.shape[1]}: use the tokenizer options of the run"
            )
        x, bias = self.encoder.begin(self.encoder.embed(own.values), own.position, own.valid)
        for block in self.blocks[:-1]:
            x = block(x, attn_mask=bias)
        return self.blocks[-1], x, bias


class _Timm(nn.Module):
    """Up to the last block of a model of timm.

    Args:
        name: of the model.
        pretrained: load weights.
        channels: of the images; the model's first layer is folded or repeated to these, as timm does it.
        mean: per channel, what was subtracted from values in [0, 1]; None if they are given as they are.
        std: per channel, what they were divided by.
        key: entry of the batch that holds the images.
    """

    mean: Tensor
    std: Tensor
    own_mean: Tensor
    own_std: Tensor

    def __init__(
        self,
        name: str,
        pretrained: bool,
        channels: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        key: str,
    ) -> None:
        super().__init__()
        try:
            model: Any = timm.create_model(
                name, pretrained=pretrained, num_classes=0, in_chans=channels, dynamic_img_size=True
            )
        except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"timm cannot make {name!r} with images of any size: {error}") from error
        first = getattr(model, "blocks", [None])[0]
        if not isinstance(model, VisionTransformer) or not hasattr(getattr(first, "attn", None), "qkv"):
            raise UserError(
                f"{name} is a {type(model).__name__}, whose attention is not read here: use a Vision "
                "Transformer, as vit_small_patch16_224"
            )
        self.model: Any = model
        self.key = key
        known: Any = model.pretrained_cfg if mean is not None else {}
        statistics = {"mean": mean or (0.0,), "std": std or (1.0,)}
        statistics |= {
            f"own_{k}": known.get(k, default) for k, default in (("mean", (0.0,)), ("std", (1.0,)))
        }
        for label, values in statistics.items():
            x = torch.tensor(tuple(values), dtype=torch.float32)
            x = x if len(x) in (1, channels) else x.mean(0, keepdim=True)
            self.register_buffer(label, x[:, None, None], persistent=False)

    @property
    def blocks(self) -> Any:
        return self.model.blocks

    @property
    def prefix(self) -> int:
        return int(self.model.num_prefix_tokens)

    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> tuple[nn.Module, Tensor, None]:
        """The last block, its input ``[B, prefix + N, D]`` and nothing for attention to add."""
        if tokens.grid is None or len(tokens.grid) != 2:
            raise UserError(
                "models of timm attend to patches of pictures, and these tokens fill no such grid"
            )
        size = [n * p for n, p in zip(tokens.grid, self.model.patch_embed.patch_size, strict=True)]
        x = F.interpolate(batch[self.key].float(), size, mode="bicubic", antialias=True)
        x = self.model.patch_embed((x * self.std + self.mean - self.own_mean) / self.own_std)
        x = self.model.norm_pre(self.model._pos_embed(x))
        for block in self.blocks[:-1]:
            x = block(x)
        return self.blocks[-1], x, None
