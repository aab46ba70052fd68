"""MaskUNet: Not All Parameters Matter (Wang et al. 2025, arXiv 2505.03097).

A trained denoiser stays as it is. For each image and each time a small network looks at what enters a block
and draws which of the block's attention weights are switched off; it learns from the denoiser's own loss.

    polymask recipe vision/maskunet --data fashion-mnist
    polymask pretrain vision/maskunet --preset small --data fashion-mnist --base RUN
    polymask generate RUN

The recipe trains the denoiser first, vision/umd without masks over tokens; the second command takes a run of
it. Masks are drawn in generation too. Losses are those of the denoiser.

The published generator cannot learn: its last layer begins at 0 and is followed by a ReLU, and the maps
behind it begin at 0 as well, so that masks depend on neither image nor time. Here the ReLU is left out and
those maps begin small; ``--reference_init true`` is the release.

The release masks what is behind the skips of a U-Net; here it is the decoder of vision/umd, or all blocks. As
blocks of a Transformer have no skips, the mean of the tokens that enter a block takes the place of its
feature maps, and what the block is told (time, class) that of the time embedding.

Shapes: B samples, N tokens, D width, O outputs and I inputs of a layer, Q = O / factor, P = I / factor.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import (
    Batch,
    Generation,
    Host,
    Losses,
    Mask,
    Preview,
    Request,
    Step,
    System,
    Tokens,
    UserError,
    sample_ids,
)
from polymask.checkpoints import CHECKPOINT, read_checkpoint, system_weights
from polymask.config import relative_to_run
from polymask.protocols import Masking
from polymask.recipes import Stage
from polymask.systems.base import Generates
from polymask.types import Count, Place
from polymask_vision.sampling import Denoising
from polymask_vision.systems.umd import UMD
from polymask_vision.weights import masked_weights, require_learned, weights_of

FIRST = 2
"""First stream of masks; the host has those below."""


class MaskUNet(Host, Generates):
    """A frozen denoiser with masks over weights that depend on the sample and on time.

    Args:
        host: the denoiser, vision/umd.
        masking: turns the logit of each weight, of staying visible, into a mask, and passes gradient on.
        base: folder of a run of the host; ``random`` for random weights, to try things out.
        where: blocks whose attention is masked: those of the ``decoder``, or ``all``.
        factor: the grid of logits is this much coarser than a weight, along both axes.
        hidden_dim: width of the generator.
        start: logit of each weight at the start (release: 5, for long runs).
        reference_init: begin as the release, whose masks are the same for all samples and times.
    """

    def __init__(
        self,
        *,
        host: System,
        masking: Masking,
        base: Place = None,
        where: Literal["decoder", "all"] = "decoder",
        factor: Count = 4,
        hidden_dim: Count = 64,
        start: float = 5.0,
        reference_init: bool = False,
    ) -> None:
        super().__init__(host)
        require_learned(masking, "maskunet")
        own: Any = host
        if not isinstance(host, UMD) or host.clean_share == 1:
            raise UserError(
                f"maskunet masks a denoiser, and this {type(host).__name__} is none: use vision/umd with "
                "--host.clean_share below 1"
            )
        _load(own, base)
        host.requires_grad_(False).eval()
        self.masking = masking
        blocks = [*own.decoder.blocks, *(own.encoder.blocks if where == "all" else ())]
        if own.encoder.dim % factor:
            raise UserError(
                f"factor {factor} does not divide the width {own.encoder.dim}: choose one that does"
            )
        self.generators = nn.ModuleList(
            MaskGenerator(block, own.encoder.dim, factor, hidden_dim, start, reference_init)
            for block in blocks
        )
        self._blocks = [blocks]  # not a second time among the modules

    def forward(self, batch: Batch, step: Step) -> Losses:
        with self.masked(batch, step):
            losses: Losses = self.host(batch, step)
        return losses

    @contextlib.contextmanager
    def masked(self, batch: Batch, step: Step) -> Iterator[dict[str, Mask]]:
        """Within, blocks of the host run with masks of their own for each sample, which are noted by name."""
        drawn: dict[str, Mask] = {}
        streams = itertools.count(FIRST)
        with contextlib.ExitStack() as stack:
            for place, (block, generator) in enumerate(zip(self._blocks[0], self.generators, strict=True)):

                def through(
                    x_BND: Tensor,
                    attn_mask: Tensor | None = None,
                    *,
                    condition: Tensor,
                    plain: Any = block.forward,
                    block: Any = block,
                    generator: Any = generator,
                    place: int = place,
                ) -> Tensor:
                    masks = {}
                    for name, logit_BOI in generator(x_BND, condition).items():
                        score = logit_BOI.flatten(1)
                        ids, sites = sample_ids(batch), score.shape[1]
                        asked = Request(ids, sites, step, score=score, stream=next(streams))
                        masks[name] = drawn[f"{place}.{name}"] = self.masking(asked)
                    with masked_weights(block, masks):
                        out: Tensor = plain(x_BND, attn_mask, condition=condition)
                    return out

                block.forward = through
                stack.callback(block.__dict__.pop, "forward")
            yield drawn

    def encode(self, batch: Batch) -> Tokens:
        with self.masked(batch, Step()):
            return self.host.encode(batch)

    @functools.wraps(Denoising.generate)
    def generate(  # type: ignore[override]
        self, batch: Batch, step: Step, mask: Mask | None = None, **options: Any
    ) -> Generation:
        with self.masked(batch, step):  # anew at each step of denoising
            made: Generation = self.host.generate(batch, step, mask, **options)  # type: ignore[operator]
        return made

    @torch.no_grad()
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        with self.masked(batch, step) as drawn:
            self.host(batch, step)
        share_B = torch.cat([mask.hidden.float() for mask in drawn.values()], dim=1).mean(1)
        return {"hidden_weights": share_B.mean(), "spread_over_samples": share_B.std(unbiased=False)}

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        shown = self.host.preview(batch, step)
        with self.masked(batch, step) as drawn:
            self.host(batch, step)
        lines: dict[str, list[Tensor]] = {}
        for name, mask in drawn.items():
            lines.setdefault(name.partition(".")[2], []).append(mask.hidden.float().mean().cpu())
        gap = torch.tensor(float("nan"))
        by_depth = {name: torch.stack([gap, *shares]) for name, shares in lines.items()}
        title = "share of the weights that is hidden, by depth"
        return Preview(shown.media, {**shown.lines, title: by_depth})


class MaskGenerator(nn.Module):
    """Logits of the attention weights of a block, from what enters it and what it is told.

    Args:
        block: whose attention.
        dim: D, width of tokens and of what blocks are told.
        factor: see :class:`MaskUNet`.
        hidden_dim: see :class:`MaskUNet`.
        start: see :class:`MaskUNet`.
        reference_init: see :class:`MaskUNet`.
    """

    def __init__(
        self, block: nn.Module, dim: int, factor: int, hidden_dim: int, start: float, reference_init: bool
    ) -> None:
        super().__init__()
        self.side, self.last_relu = dim // factor, reference_init
        self.told = nn.Linear(dim, dim, bias=False)
        self.first, self.second = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, self.side**2)
        if reference_init:
            nn.init.zeros_(self.second.weight)
            nn.init.zeros_(self.second.bias)
        self.names = weights_of(block, "attention")
        std = 0.0 if reference_init else 0.02
        self.adapters = nn.ModuleList(
            Adapter(block.get_parameter(name).shape, self.side, start, std) for name in self.names
        )

    def forward(self, x_BND: Tensor, condition: Tensor) -> dict[str, Tensor]:
        """By the name of a weight, ``[B, O, I]``; positive ones stay visible more often than not."""
        v_BD = x_BND.mean(1) + self.told(condition)
        grid = self.second(F.relu(self.first(v_BD)))
        grid = F.relu(grid) if self.last_relu else grid
        grid_BQP = grid.view(len(grid), self.side, self.side)
        return {name: adapter(grid_BQP) for name, adapter in zip(self.names, self.adapters, strict=True)}


class Adapter(nn.Module):
    """A small grid of logits brought to the shape of a weight, by a linear map along each axis.

    Args:
        shape: O and I.
        side: Q and P.
        start: every logit at the start, but for ``std``.
        std: of the two maps at the start.
    """

    def __init__(self, shape: torch.Size, side: int, start: float, std: float) -> None:
        super().__init__()
        o, i = shape
        self.rows, self.columns = (nn.Parameter(torch.randn(n, side) * std) for n in (o, i))
        self.row_bias, self.column_bias = (nn.Parameter(torch.full((n,), start)) for n in (o, i))

    def forward(self, grid_BQP: Tensor) -> Tensor:
        """``[B, Q, P]`` to ``[B, O, I]``."""
        z_BOP = self.rows @ grid_BQP + self.row_bias[:, None]
        return z_BOP @ self.columns.T + self.column_bias


def _load(host: System, base: str | None) -> None:
    """Set the weights of a denoiser, or refuse to."""
    if base is None:
        raise UserError(
            "masks over which denoiser? give --base RUN, of vision/umd; polymask recipe vision/maskunet "
            "trains one"
        )
    if base == "random":  # blocks that begin as the identity would give masks no gradient
        for module in host.modules():
            if isinstance(getattr(module, "modulation", None), nn.Linear):
                nn.init.normal_(module.modulation.weight, std=0.02)  # type: ignore[arg-type, union-attr]
                nn.init.ones_(module.modulation.bias)  # type: ignore[arg-type, union-attr]
        return
    try:
        host.load_state_dict(system_weights(read_checkpoint(Path(base) / CHECKPOINT), host))
    except UserError as error:
        raise UserError(
            f"--base {base}: {error}\ngive a run of vision/umd, and its options to --host"
        ) from error


def maskunet(
    stage: Stage, /, *, base_data: Any = None, preset: str = "small", steps: Count | None = None
) -> None:
    """A denoiser, and masks over its weights that depend on the sample and on time.

    Args:
        stage: trains a run.
        base_data: what the denoiser is trained on; by default the recipe's data.
        preset: of both stages.
        steps: of each stage; by default the preset's.
    """
    length, data = {} if steps is None else {"steps": steps}, base_data or stage.given
    plain = {"clean_share": 0.0, "noisy_masking": None}
    base = stage("denoiser", "vision/umd", preset=preset, data=data, **plain, **length)
    stage("masks", "vision/maskunet", preset=preset, base=relative_to_run(base.folder.name), **length)
