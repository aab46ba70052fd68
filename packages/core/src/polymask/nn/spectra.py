"""Signals and their spectra: centred, orthonormal, in float32.

A spectrum has its zero frequency at ``n // 2`` of each axis, in what is masked, what is scored and
what is drawn alike; nobody else shifts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymask.mask import Mask


def spectrum(x: Tensor, axes: int) -> Tensor:
    """Fourier transform over the last axes, complex64 (complex128 of float64), of the shape of ``x``.

    Energy is preserved: the squares of the magnitudes sum to those of ``x``.
    """
    dims = tuple(range(-axes, 0))
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # half-precision transforms are rarely there
    bins: Tensor = torch.fft.fftshift(torch.fft.fftn(wide, dim=dims, norm="ortho"), dim=dims)
    return bins


def signal(bins: Tensor, axes: int) -> Tensor:
    """Undo :func:`spectrum`; what is not real for want of symmetry is dropped."""
    dims = tuple(range(-axes, 0))
    x: Tensor = torch.fft.ifftn(torch.fft.ifftshift(bins, dim=dims), dim=dims, norm="ortho").real
    return x


def band_pass(x: Tensor, mask: Mask, axes: int) -> Tensor:
    """``x`` without its hidden frequencies.

    Args:
        x: ``[B, ..., *grid]``, real; all axes between share the mask.
        mask: over the bins, ``[B, *grid]`` or flat, symmetric (see :func:`mirrored`); a soft one
            weakens its bins.
        axes: how many axes the grid has.
    """
    shape = (len(x), *(1,) * (x.dim() - 1 - axes), *x.shape[-axes:])
    bins, hidden = spectrum(x, axes), mask.hidden.view(shape)
    if hidden.dtype == torch.bool:
        return signal(torch.where(hidden, 0, bins), axes)
    return signal(bins * (1 - hidden), axes)


def mirrored(mask: Mask, grid: tuple[int, ...]) -> Mask:
    """The mask made symmetric: a frequency and its negative are hidden or kept together.

    Of the two bins the one that comes first decides. A real signal has both or none, so a mask
    that is not symmetric would halve coefficients instead of removing them.

    Args:
        mask: over the bins of a centred spectrum, ``[B, sites]`` or ``[B, *grid]``.
        grid: lengths of the axes.
    """
    hidden = mask.hidden.flatten(1)
    site = partner = torch.zeros((), dtype=torch.int64, device=hidden.device)
    for n in grid:
        index = torch.arange(n, device=hidden.device)
        site = site[..., None] * n + index
        partner = partner[..., None] * n + (2 * (n // 2) - index) % n
    return Mask(hidden[:, torch.minimum(site, partner).flatten()])
