"""Decoders: what predicts hidden tokens from the encoding of visible ones."""

from polymask.decoders.convolutional import ConvDecoder
from polymask.decoders.cross import CrossDecoder, decoder_of
from polymask.decoders.light import LatentPredictor, LightDecoder, MemoryDecoder, placed

__all__ = [
    "ConvDecoder",
    "CrossDecoder",
    "LatentPredictor",
    "LightDecoder",
    "MemoryDecoder",
    "decoder_of",
    "placed",
]
