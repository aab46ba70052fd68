"""Spans as HuBERT draws them, and bands of time and of frequency."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Mask, Request, UserError
from polymask.maskings.block import enough
from polymask.maskings.choose import check_ratio, share, unique_keys
from polymask.maskings.ranking import Ranking
from polymask.nn.positions import coordinates
from polymask.types import Count, Whole

_LAST = torch.iinfo(torch.int64).max


class HubertSpan:
    """Hide spans that begin at distinct random tokens and may overlap (wav2vec 2.0, HuBERT).

    Of N tokens about ``probability * N / length`` begin a span (rounded up or down at random, at least
    ``least``), so that less than ``probability`` is hidden: 57 % at the defaults and N = 500, where
    core/span hides its ratio exactly. A span begins ``length`` tokens before the end at the latest,
    and as in the released code the very last token is never hidden, the first ones are more rarely.
    A row in which spans leave nothing visible keeps one token at random, which the published code does
    not see to.

    With ``trim`` each row gives hidden tokens back, at random, until all rows of the batch hide as many
    as the least of them. That is published too: 52 %, with holes in the spans, and what one sample hides
    depends on the others.

    Args:
        probability: of a token to lie in a span if none overlapped.
        length: tokens per span.
        least: spans per row at least.
        trim: hide equally many in every row of a batch.
    """

    def __init__(
        self, *, probability: float = 0.8, length: Count = 10, least: Whole = 2, trim: bool = False
    ) -> None:
        if not 0 < probability < 1:
            raise UserError(f"probability must lie between 0 and 1, got {probability}")
        if length < 1 or least < 1:
            raise UserError(f"length and least must be 1 or more, got {length} and {least}")
        self.probability, self.length, self.least, self.trim = probability, length, least, trim

    def __call__(self, request: Request) -> Mask:
        sites, valid = request.sites, request.valid
        if sites < 2:
            raise UserError("one token cannot be hidden in part: use longer sounds, or shorter tokens")
        bits = request.step.bits(request.ids, 1 + 2 * sites, request.stream)[:, 1:]
        keys, other = bits.view(-1, sites, 2).unbind(2)
        site = torch.arange(sites, device=bits.device)
        size = valid.sum(1, keepdim=True) if valid is not None else site.new_full((len(bits), 1), sites)
        chance = request.step.noise(request.ids, 1, request.stream)
        spans = (self.probability * size / self.length + chance).long().clamp(min=self.least)
        room = torch.where(size - self.length > spans, size - self.length, spans + 1)
        starts = _first(keys, (site < room) & (site < size), torch.minimum(spans, size - 1))
        begun = starts.cumsum(1)
        hidden = begun > F.pad(begun, (self.length, 0))[:, :sites]
        real = site < size
        hidden = hidden & real
        whole = hidden.sum(1, keepdim=True) == size
        hidden = hidden & ~(whole & _first(other, real, torch.ones_like(size)))
        if self.trim:
            hidden = _first(other, hidden, hidden.sum(1, keepdim=True).amin(0, keepdim=True).expand_as(size))
        if valid is None:
            return Mask(hidden)
        place = (valid.cumsum(1) - 1).clamp(min=0)
        return Mask(hidden.gather(1, place) & valid, valid=valid)


class Bands(Ranking):
    """Hide bands of time and bands of frequency across a spectrogram, exactly the given share of each sample.

    As SpecAugment has them (Park et al. 2019, arXiv 1904.08779): a band of time hides all frequencies for a
    while, one of frequency hides neighbouring bands of it all the time. Here they are laid one after
    another, where they may cross, until the count is reached; the last one is trimmed. The end of
    an axis joins its beginning, so every token is equally likely to be hidden. Among sounds of different
    lengths each has bands in proportion to its own.

    Args:
        ratio: share of tokens to hide, in (0, 1).
        width: narrowest and widest band, as shares of the axis it lies on; one token at least.
        frequency: chance of a band to be one of frequency; 0 for time alone. Tokens that are whole spectra
            have bands of time alone.
    """

    def __init__(
        self, *, ratio: float = 0.5, width: tuple[float, float] = (0.05, 0.25), frequency: float = 0.5
    ) -> None:
        if not 0 < width[0] <= width[1] <= 1:
            raise UserError(f"width must be two shares of an axis, 0 < low <= high <= 1, got {width}")
        if not 0 <= frequency <= 1:
            raise UserError(f"frequency is a chance between 0 and 1, got {frequency}")
        self.ratio, self.width, self.frequency = check_ratio(ratio), (width[0], width[1]), frequency

    def rank(self, request: Request) -> Tensor:
        """Tokens by the first band that covers them, then by their place in it."""
        place = _coordinates(request)  # [B, N, axes]
        axes, sites = place.shape[2], request.sites
        bands = enough(sum(self.width) / 2, self.ratio)
        bits = request.step.bits(request.ids, bands * (2 + axes) + sites, request.stream)
        draws = (bits[:, : bands * (2 + axes)] & _LAST).view(len(bits), bands, 2 + axes)
        if request.valid is not None:
            place = torch.where(request.valid[..., None], place, 0)
        length = place.amax(1, keepdim=True) + 1  # [B, 1, axes]
        low, high = (share(part, length).clamp(min=1) for part in self.width)
        width = low + draws[..., 1:2] % (high - low + 1)  # [B, bands, axes]
        across = draws[..., :1] % (1 << 20) < round(self.frequency * (1 << 20))
        start = draws[..., 2:] % length
        within = (place[:, None] - start[:, :, None]) % length[:, None]  # [B, bands, N, axes]
        if axes == 1:
            inside, order = within[..., 0] < width, within[..., 0]
        else:
            along = torch.where(across[..., None], within.flip(-1), within)  # the band's own axis first
            size = torch.where(across, length.flip(-1), length)
            inside = along[..., 0] < torch.where(across, width.flip(-1), width)[..., :1]
            order = along[..., 0] * size[..., 1:] + along[..., 1]
        # the last band is as wide as the axis: whatever the others leave, the count is reached
        inside[:, -1] = True
        number = torch.arange(bands, device=place.device)[:, None] * length.prod(-1)[..., None]
        first = torch.where(inside, number + order, _LAST >> 33).amin(1)
        # tokens of one place, which a spectrogram has not, have an order too
        return -((first << 32) | unique_keys(bits[:, -sites:] & 0xFFFFFFFF))


def _coordinates(request: Request) -> Tensor:
    """Where tokens lie in time and frequency, int64 ``[B, N, 1 or 2]``."""
    position, grid = request.position, request.grid
    if position is None and grid is not None:
        position = coordinates(grid).to(request.ids.device).expand(len(request.ids), -1, -1)
    if position is None or not 1 <= position.shape[2] <= 2:
        raise UserError(
            "audio/bands needs tokens in time, or in time and frequency, and these lie on "
            f"{'no axis' if position is None else f'{position.shape[2]} axes'}; use core/random"
        )
    return position.long()


def _first(keys: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The ``count [B, 1]`` sites of smallest key among some: bool ``[B, N]``."""
    keys = torch.where(among, keys, _LAST)
    last = keys.sort(1).values.gather(1, (count - 1).clamp(min=0))
    return among & (keys <= last) & (count > 0)
