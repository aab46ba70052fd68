"""Decoders: what predicts hidden tokens from the encoding of visible ones."""

from polymask.decoders.convolutional import ConvDecoder
from polymask.decoders.cross import CrossDecoder, decoder_of
from polymask.decoders.light import LightDecoder, placed

__all__ = [
    "ConvDecoder",
    "CrossDecoder",
    "LightDecoder",
    "decoder_of",
    "placed",
]
