"""Features of sound that targets are made of: cepstra, spectra, a layer of a network.

All are named by one string: ``mfcc``, ``mel``, ``run:FOLDER`` (the encoder of a finished run),
``torchaudio:NAME`` (a bundle of ``torchaudio.pipelines``) or ``transformers:NAME`` (a model of the Hugging
Face hub, or a folder in its layout).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn
from torchaudio.functional import compute_deltas, resample
from torchaudio.transforms import MelSpectrogram

from polymask import UserError, functional
from polymask.data import length_key, valid_of
from polymask.nn.teachers import Frozen
from polymask.pretrained import from_pretrained, require_whole
from polymask_audio.windows import energies, standardised, transform_size

WINDOW, HOP = 0.025, 0.010
"""Seconds, of spectra and cepstra."""

FLOOR = 1e-6
KINDS = "mfcc, mel, run:FOLDER, torchaudio:NAME or transformers:NAME"


class Features(nn.Module):
    """What can be asked for features; subclasses write :meth:`extract`.

    Args:
        dim: width of a feature.
        per_second: frames per second.
        bands: features of one time, where they are of patches; they are in the order (time, band).
    """

    key = "audio"

    def __init__(self, dim: int, per_second: float, bands: int = 1) -> None:
        super().__init__()
        self.dim, self.per_second, self.bands = dim, per_second, bands

    def extract(self, audio: Tensor, length: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        """Sound ``[B, T]``, 0 on padding, and how much of each is real, int64 ``[B]``.

        Returns:
            ``[B, F, dim]`` for each layer asked for; and how many frames of each sample are real, int64
            ``[B]``, None where all are.
        """
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor]) -> tuple[list[Tensor], Tensor | None]:
        """Features of the unmasked sound of a batch, float32; as :meth:`extract`."""
        audio, real = batch[self.key].float(), valid_of(batch, self.key)
        if real is not None:
            audio = torch.where(real, audio, 0.0)
        with torch.autocast(audio.device.type, enabled=False):
            found, counts = self.extract(audio, batch.get(length_key(self.key)))
        return [x.float() for x in found], counts


class Mel(Features):
    """Log energies of mel filters, 100 spectra a second, each of 25 ms.

    Args:
        rate: samples per second.
        mels: filters.
    """

    def __init__(self, rate: int, mels: int = 80) -> None:
        super().__init__(mels, 1 / HOP)
        window, self.hop = 2 * round(WINDOW * rate / 2), round(HOP * rate)
        if self.hop < 1:
            raise UserError(f"spectra every {HOP} s need a rate of 100 Hz or more, got {rate}")
        # the window stands in its middle
        size = max(transform_size(rate, window, mels, 0.0), 512)
        self.window = window
        self.mel = MelSpectrogram(
            rate,
            size,
            win_length=window,
            hop_length=self.hop,
            pad=(size - window) // 2,
            n_mels=mels,
            center=False,
        )

    def extract(self, audio: Tensor, length: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        spectra = energies(self.mel, F.pad(audio, (0, max(self.window - audio.shape[1], 0))))
        counts = None if length is None else ((length - self.window) // self.hop + 1).clamp(min=1)
        return [(spectra + FLOOR).log().transpose(1, 2)], counts


class MFCC(Features):
    """13 mel cepstral coefficients with their first and second differences, 100 a second.

    torchaudio's, of 40 log energies. HuBERT's come from Kaldi's (pre-emphasis, another window, 23
    energies); that clusters of these do as well is unverified.

    Args:
        rate: samples per second.
    """

    dct: Tensor

    def __init__(self, rate: int) -> None:
        super().__init__(39, 1 / HOP)
        self.mel = Mel(rate, mels=40)
        dct = torchaudio.functional.create_dct(13, 40, "ortho")
        self.register_buffer("dct", dct, persistent=False)

    def extract(self, audio: Tensor, length: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        spectra, counts = self.mel.extract(audio, length)
        streams = [_hold(spectra[0] @ self.dct, counts)]
        for _ in range(2):
            streams.append(_hold(compute_deltas(streams[-1].transpose(1, 2)).transpose(1, 2), counts))
        return [torch.cat(streams, dim=2)], counts


def _hold(x: Tensor, counts: Tensor | None) -> Tensor:
    """``[B, F, D]``, its last real frame repeated over padding: as differences go on beyond an end."""
    if counts is None:
        return x
    at = torch.minimum(torch.arange(x.shape[1], device=x.device), counts[:, None] - 1)
    return take(x, at)


class Layers(Features):
    """Layers of the encoder of a finished run, which sees the whole of a recording.

    Args:
        folder: of the run.
        layers: which blocks, from 1; None for the encoder's output.
        rate: samples per second of the data.

    Raises:
        UserError: no such run or layer, or a run on sound of another rate.
    """

    def __init__(self, folder: str, layers: Sequence[int | None], rate: int) -> None:
        from polymask.run import Run

        system: Any = Run.open(folder).system
        tokenizer, encoder = system.tokenizer, system.backbone
        if getattr(tokenizer, "rate", rate) != rate:
            raise UserError(
                f"the run {folder} learned from sound at {tokenizer.rate} Hz, and this is at {rate} Hz: "
                f"give --data.rate {tokenizer.rate}"
            )
        if encoder.downsample > 1:
            raise UserError(f"the encoder of the run {folder} gives one output for several tokens")
        depth = functional.depth(encoder) if list(layers) != [None] else 0
        _confirm_layers(layers, depth, f"{type(encoder).__name__} of the run {folder}")
        super().__init__(encoder.out_dim, rate / tokenizer.hop, getattr(tokenizer, "bands", 1))
        self.tokenizer, self.encoder, self.layers = tokenizer, Frozen(encoder), list(layers)

    def extract(self, audio: Tensor, length: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        batch = {self.key: audio} if length is None else {self.key: audio, length_key(self.key): length}
        tokenizer: Any = self.tokenizer
        encoder: Any = self.encoder.module
        tokens = tokenizer(batch)
        if self.layers == [None]:
            states = [functional.encode_tokens(encoder, tokens)]
        else:
            states = functional.layers(encoder, tokens)
            states = [states[-1 if layer is None else layer - 1] for layer in self.layers]
        counts = None if tokens.valid is None else tokens.valid.sum(1)
        return [state[:, encoder.prefix :] for state in states], counts


class Pretrained(Features):
    """Layers of a model of torchaudio or of transformers that takes raw sound.

    In base models whose convolutions are normalised over time, padding and so the rest of a batch reach
    the features a little, as in the originals.

    Args:
        name: ``torchaudio:NAME`` or ``transformers:NAME``.
        layers: which blocks, from 1; None for the last.
        rate: samples per second of the data, resampled to the model's.

    Raises:
        UserError: no such model, or no such layer.
    """

    def __init__(self, name: str, layers: Sequence[int | None], rate: int) -> None:
        library, _, model_name = name.partition(":")
        load = _torchaudio if library == "torchaudio" else _transformers
        try:
            model, self.run, dim, depth, hop, own_rate = load(model_name)
        except (AttributeError, ImportError, OSError, ValueError) as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == "transformers"
            hint = "; pip install 'polymask-audio[transformers]'" if missing else ""
            raise UserError(f"{name} cannot be loaded: {error}{hint}") from error
        _confirm_layers(layers, depth, name)
        super().__init__(dim, own_rate / hop)
        self.model, self.layers, self.rates = Frozen(model), list(layers), (rate, own_rate)

    def extract(self, audio: Tensor, length: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        old, own = self.rates
        if old != own:
            audio = resample(audio, old, own)
            length = None if length is None else (length * own).div(old, rounding_mode="floor")
        states, counts = self.run(self.model.module, audio, length)
        return [states[-1 if layer is None else layer - 1] for layer in self.layers], counts


def _torchaudio(name: str) -> tuple[Any, ...]:
    from torchaudio.models.wav2vec2.components import ConvLayerBlock

    bundle: Any = getattr(torchaudio.pipelines, name)
    model = bundle.get_model()
    hop = math.prod(m.stride for m in model.modules() if isinstance(m, ConvLayerBlock))
    transformer = next(m for m in model.modules() if hasattr(m, "pos_conv_embed"))
    return (
        model,
        _run_torchaudio,
        transformer.layer_norm.normalized_shape[0],
        len(transformer.layers),
        hop,
        int(bundle.sample_rate),
    )


def _run_torchaudio(model: Any, audio: Tensor, length: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
    states, counts = model.extract_features(audio, length)
    return states, counts


def _transformers(name: str) -> tuple[Any, ...]:
    from transformers import AutoFeatureExtractor, AutoModel

    model, missing = from_pretrained(AutoModel, name)
    require_whole(name, missing)
    inputs: Any = AutoFeatureExtractor.from_pretrained(name)  # type: ignore[no-untyped-call]
    config: Any = model.config
    run = functools.partial(_run_transformers, normalise=bool(getattr(inputs, "do_normalize", False)))
    hop = math.prod(config.conv_stride)
    return model, run, config.hidden_size, config.num_hidden_layers, hop, int(inputs.sampling_rate)


def _run_transformers(
    model: Any, audio: Tensor, length: Tensor | None, normalise: bool
) -> tuple[list[Tensor], Tensor | None]:
    real = None
    if length is not None:
        real = torch.arange(audio.shape[1], device=audio.device) < length[:, None]
    if normalise:
        audio = standardised(audio, length)
    mask = None if real is None else real.long()
    states = model(audio, attention_mask=mask, output_hidden_states=True).hidden_states
    counts = None if length is None else model._get_feat_extract_output_lengths(length)
    return list(states[1:]), counts


def _confirm_layers(layers: Sequence[int | None], depth: int, what: str) -> None:
    wrong = [layer for layer in layers if layer is not None and not 1 <= layer <= depth]
    if wrong or (len(layers) > 1 and not depth):
        raise UserError(f"{what} has no layer {wrong[0] if wrong else layers}: it has 1 to {depth}")


def open_features(name: str, rate: int, layers: Sequence[int | None] = (None,)) -> Features:
    """Features by name.

    Args:
        name: ``mfcc``, ``mel``, ``run:FOLDER``, ``torchaudio:NAME`` or ``transformers:NAME``.
        rate: samples per second of the data.
        layers: of networks, which blocks, from 1; None for the last.

    Raises:
        UserError: another name, or what it names cannot be had.
    """
    kind, _, rest = name.partition(":")
    if kind == "run" and rest:
        return Layers(rest, layers, rate)
    if kind in ("torchaudio", "transformers") and rest:
        return Pretrained(name, layers, rate)
    if name not in ("mfcc", "mel"):
        raise UserError(f"there are no features {name!r}: choose {KINDS}")
    if list(layers) != [None]:
        raise UserError(f"{name} has no layers, but {list(layers)} are asked for")
    return MFCC(rate) if name == "mfcc" else Mel(rate)


def take(x: Tensor, index: Tensor) -> Tensor:
    """``[B, F, D]`` and int64 ``[B, N]`` to the frames asked for, ``[B, N, D]``."""
    b, f, d = x.shape
    flat = index + torch.arange(b, device=x.device)[:, None] * f
    return x.reshape(b * f, d).index_select(0, flat.flatten()).view(b, -1, d)
