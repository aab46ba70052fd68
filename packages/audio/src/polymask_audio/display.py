"""What a notebook or a report shows of sound: something to listen to, and units in colours."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import soundfile
import torch
from torch import Tensor

from polymask import Batch, Mask, Tokens
from polymask.protocols import Media, Tokenizer
from polymask.report.drawing import HIDDEN


def silence(tokenizer: Tokenizer, batch: Batch, mask: Mask) -> dict[str, Tensor]:
    """A column of a report: what is left of the sound where hidden tokens are silent.

    Args:
        tokenizer: whose ``provides`` tells ``hop``; without it there is no column.
        batch: with sound ``[B, T]`` under the tokenizer's key.
        mask: over tokens that follow each other in time.
    """
    audio, facts = batch[tokenizer.key], tokenizer.provides
    if audio.dim() != 2 or "hop" not in facts:
        return {}
    token = torch.arange(audio.shape[1], device=audio.device) // facts["hop"]
    hidden = mask.hidden[:, token.clamp(max=mask.sites - 1)]
    return {"visible": torch.where(hidden, 0.0, audio)}


def compare(
    true: Tensor, predicted: Tensor, mask: Mask, tokens: Tokens, classes: int
) -> dict[str, Sequence[Media]]:
    """A column of a report: units as they are and as they were predicted, and which are hidden.

    Args:
        true: classes of each token, int64 ``[B, N]``, or ``[B, N, J]`` of several codebooks.
        predicted: the same, guessed.
        mask: what was hidden.
        tokens: which of them are real, and how many share a time.
        classes: how many classes there are.
    """
    place = tokens.position[0]
    bands = int(place[:, 1].max()) + 1 if place.shape[1] > 1 else 1
    real = torch.ones_like(mask.hidden) if tokens.valid is None else tokens.valid
    shown = [
        Units(*(x[i][real[i]] for x in (true, predicted, mask.hidden)), classes=classes, bands=bands)
        for i in range(len(true))
    ]
    return {"units: true, predicted, which are hidden": shown}


class Sound:
    """Sound with a button to play it.

    Args:
        samples: ``[T]``; clipped to [-1, 1].
        rate: samples per second.
    """

    def __init__(self, samples: Tensor, rate: int) -> None:
        self.samples, self.rate = samples.detach().float().cpu(), rate

    def wav(self) -> bytes:
        """A WAV file of 16 bits."""
        file = io.BytesIO()
        samples = self.samples.nan_to_num().clamp(-1, 1).numpy()
        soundfile.write(file, samples, self.rate, format="WAV", subtype="PCM_16")
        return file.getvalue()

    def file(self) -> tuple[str, bytes]:
        """The same, and the suffix of its name."""
        return ".wav", self.wav()

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.wav()).decode()
        return f'<audio controls preload="none" src="data:audio/wav;base64,{data}"></audio>'


class Units:
    """True and predicted units of one sound as two rows of colours, and what is hidden below them.

    Args:
        true: class of each token, int64 ``[N]``, without padding, or ``[N, J]`` of several codebooks.
        predicted: the same, guessed.
        hidden: bool ``[N]``.
        classes: how many there are, of each codebook.
        bands: tokens of each time, which are drawn one above the other, and so are codebooks.
    """

    def __init__(
        self, true: Tensor, predicted: Tensor, hidden: Tensor, *, classes: int, bands: int = 1
    ) -> None:
        self.true, self.predicted = (x.view(len(hidden), -1).cpu() for x in (true, predicted))
        self.hidden, self.classes = hidden.cpu(), classes
        self.bands = bands * self.true.shape[1]

    @property
    def note(self) -> str:
        """How many hidden units are right, and how many kinds occur, on average over codebooks."""
        true, predicted = self.true[self.hidden], self.predicted[self.hidden]
        right, books = int((true == predicted).sum()), true.shape[1]
        kinds, guessed = (
            f"{sum(len(column.unique()) for column in x.T) / books:.3g}" for x in (true, predicted)
        )
        each = f" of each of {books} codebooks" if books > 1 else ""
        return (
            f"{right} of {true.numel()} hidden right; {kinds} of {self.classes} units{each} occur there, "
            f"{guessed} are predicted"
        )

    def _repr_html_(self) -> str:
        # neighbouring numbers get distant hues: multiples of the golden angle
        rows = [
            [f"hsl({int(u) * 137.508 % 360:.0f} 55% 55%)" for u in x.flatten()]
            for x in (self.true, self.predicted)
        ]
        colour = f"rgb({', '.join(str(round(255 * c)) for c in HIDDEN)})"
        hidden = self.hidden.repeat_interleave(self.true.shape[1])
        rows.append([colour if h else "#eee" for h in hidden])
        height = 1 / self.bands
        bars = [
            f'<rect x="{i // self.bands}" y="{1.1 * row + (self.bands - 1 - i % self.bands) * height:.3f}" '
            f'width="1.02" height="{height:.3f}" fill="{fill}"/>'
            for row, fills in enumerate(rows)
            for i, fill in enumerate(fills)
        ]
        return (
            f'<figure style="margin:0"><svg viewBox="0 0 {self.true.numel() // self.bands} 3.2" '
            'preserveAspectRatio="none" width="260" height="96" role="img" aria-label="true units, predicted '
            f'units, what is hidden">{"".join(bars)}</svg><figcaption>{html.escape(self.note)}</figcaption>'
            "</figure>"
        )
