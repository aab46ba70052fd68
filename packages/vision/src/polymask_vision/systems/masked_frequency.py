"""MFM: Masked Frequency Modeling for Self-Supervised Visual Pre-Training (Xie et al. 2022, arXiv 2206.07706).

Remove the high or the low frequencies of the whole image with a circular filter, encode the result with any
encoder, and regress the missing Fourier coefficients.

    polymask pretrain vision/mfm --preset small --data fashion-mnist

There is no mask token and no token is dropped, so any encoder works: ``--preset paper-resnet``, or
``--encoder vision/resnet``. The masking hides bins of the spectrum, a frequency and its negative together.
The filter is applied to pixels in [0, 1] and its result is clipped to that range, as published; a high-passed
image then keeps 35 to 45 % of its variance, and some energy returns to the removed bins. The loss compares
normalised images and averages over all hidden bins of a batch equally, so samples that lose high frequencies
outweigh the others (``--objective.average samples`` changes that). The paper's baselines restore images that
were degraded in other ways, with a loss over all bins: ``--corruption super-resolution``, ``deblurring`` or
``denoising``.

The head is one linear layer; its outputs are in the order of the tokens (row, column, channel), where the
paper's PixelShuffle has the channel first. Signals and spectrograms work through their tokenizers: the
spectrum is over the last axes, as many as the grid of tokens has.

Shapes: B samples, C channels, H x W sites of the signal (one axis or more), N tokens, L output tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polymask import (
    Batch,
    Losses,
    Mask,
    MaskView,
    Preview,
    Request,
    Step,
    System,
    UserError,
    functional,
    sample_ids,
)
from polymask.nn import spectra
from polymask.protocols import Encoder, Masking, Objective, Tokenizer
from polymask.types import Fact
from polymask_vision.corruptions import CORRUPTIONS


class MaskedFrequency(System):
    """Masked modelling of the spectrum, for tokenizers that have an inverse.

    Args:
        tokenizer: cuts the filtered signal into tokens; it must have an inverse and a grid.
        encoder: encodes all tokens.
        masking: which bins of the spectrum to hide; there are as many as sites of the signal.
        objective: loss of a spectrum over hidden bins; complex numbers are pairs.
        corruption: ``"frequency"``, or a baseline of the paper: ``"super-resolution"`` (8 times smaller
            and back), ``"deblurring"`` or ``"denoising"`` (its input is not clipped), which draw no mask.
        mean: mean per channel that was subtracted from values in [0, 1], from the data; without it
            values are filtered as they are and never clipped.
        std: standard deviation per channel that values were divided by, from the data.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        masking: Masking,
        objective: Objective,
        corruption: Literal["frequency", "super-resolution", "deblurring", "denoising"] = "frequency",
        mean: Fact[Sequence[float] | None] = None,
        std: Fact[Sequence[float] | None] = None,
    ) -> None:
        super().__init__()
        grid = tokenizer.provides.get("grid")
        if grid is None or not hasattr(tokenizer, "inverse"):
            raise UserError(
                f"mfm compares spectra of whole signals, and {type(tokenizer).__name__} cannot be undone or "
                "has no grid: use a tokenizer with both, as vision/patches"
            )
        if corruption != "frequency" and corruption not in CORRUPTIONS:
            raise UserError(
                f"corruption={corruption!r}: choose one of {', '.join(('frequency', *CORRUPTIONS))}"
            )
        if corruption in CORRUPTIONS and (len(grid) != 2 or mean is None):
            raise UserError(
                f"{corruption} spoils pictures of values in [0, 1], and these are not known to be: "
                "use --corruption frequency, or give mean and std"
            )
        if (mean is None) != (std is None):
            raise UserError("mean and std go together: give both, or neither")
        self.tokenizer, self.encoder, self.masking = tokenizer, encoder, masking
        self.objective, self.axes = objective, len(grid)
        self.spoil = CORRUPTIONS.get(corruption)
        self.known = mean is not None
        wide = (-1, *(1,) * self.axes)
        for name, values in (("mean", mean or (0.0,)), ("std", std or (1.0,))):
            self.register_buffer(name, torch.tensor(values).float().view(wide), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self.head = nn.Linear(encoder.out_dim, encoder.downsample**self.axes * tokenizer.provides["in_dim"])

    def forward(self, batch: Batch, step: Step) -> Losses:
        clean_BCHW = batch[self.tokenizer.key]
        mask = self.draw_bins(batch, step)
        shown_BCHW = self.corrupt(batch, mask, step)
        guess_BCHW = self.predict(batch, shown_BCHW)
        return {"spectrum": self.objective(self.bins(guess_BCHW), self.bins(clean_BCHW), mask)}

    def draw_bins(self, batch: Batch, step: Step) -> Mask | None:
        """One mask per sample over the bins of its spectrum, ``[B, H * W]``; None where all are scored."""
        if self.spoil is not None:
            return None
        clean, ids = batch[self.tokenizer.key], sample_ids(batch)
        size = tuple(clean.shape[-self.axes :])
        mask = self.masking(Request(ids, math.prod(size), step, grid=size))
        if mask.hidden.shape != (len(ids), math.prod(size)):
            raise UserError(
                f"{type(self.masking).__name__} drew a mask of shape {list(mask.hidden.shape)} over "
                f"{math.prod(size)} frequencies: mfm hides those, choose a masking that draws over them"
            )
        return spectra.mirrored(mask, size)

    def corrupt(self, batch: Batch, mask: Mask | None, step: Step) -> Tensor:
        """The corrupted input of the encoder, ``[B, C, H, W]``, normalised."""
        x = batch[self.tokenizer.key].float() * self.std + self.mean
        if self.spoil is not None:
            x = self.spoil(x, sample_ids(batch), step)
        elif mask is not None:
            x = spectra.band_pass(x, mask, self.axes)
            x = x.clamp(0, 1) if self.known else x
        return (x - self.mean) / self.std

    def predict(self, batch: Batch, shown_BCHW: Tensor) -> Tensor:
        """The restored signal ``[B, C, H, W]``, predicted from the corrupted one."""
        tokens = self.tokenizer({**batch, self.tokenizer.key: shown_BCHW})
        x_BND = self.encoder.embed(tokens.values)
        z_BLD = self.encoder(x_BND, tokens.position, tokens.valid)[:, self.encoder.prefix :]
        tokenizer: Any = self.tokenizer
        guess: Tensor = tokenizer.inverse(
            functional.unfold(self.head(z_BLD), tokens.grid, self.encoder.downsample)
        )
        return guess

    def bins(self, x_BCHW: Tensor) -> Tensor:
        """The spectrum, ``[B, H * W, 2 C]`` float32: real and imaginary part of each channel in turn."""
        flat = spectra.spectrum(x_BCHW, self.axes).flatten(-self.axes)
        pairs = torch.view_as_real(flat.reshape(len(flat), -1, flat.shape[-1]))
        return pairs.permute(0, 2, 1, 3).flatten(2)

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        clean, mask = batch[self.tokenizer.key], self.draw_bins(batch, step)
        shown = self.corrupt(batch, mask, step)
        guess = self.predict(batch, shown)
        columns = {"original": clean, "input": shown, "predicted": guess.float()}
        if mask is not None:
            missing = spectra.band_pass(guess.float(), mask.invert(), self.axes)
            known = spectra.band_pass(clean.float(), mask, self.axes)
            columns["visible frequencies and predicted ones"] = known + missing
        drawn = {f"spectrum, {name}": self._amplitudes(x, clean) for name, x in columns.items()}
        return Preview({**columns, **drawn} if self.known else columns)

    def _amplitudes(self, x: Tensor, clean: Tensor) -> Tensor:
        """Amplitudes on a logarithmic scale, from 1e-3 to 1 relative to the maximum of the original."""
        dims = tuple(range(1, clean.dim()))
        size, most = (spectra.spectrum(y * self.std, self.axes).abs() for y in (x, clean))
        level = (size / most.amax(dim=dims, keepdim=True)).clamp(1e-3, 1).log10() / 3 + 1
        return (level - self.mean) / self.std

    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        mask = self.draw_bins(batch, step)
        if mask is None:
            return {}
        size = batch[self.tokenizer.key].shape[-self.axes :]
        return {"hidden frequencies": MaskView(Mask(mask.hidden.view(-1, *size)))}
