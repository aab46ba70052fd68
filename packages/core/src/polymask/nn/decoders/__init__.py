"""Decoders: what predicts hidden tokens from the encoding of visible ones."""

from polymask.nn.decoders.convolutional import ConvDecoder
from polymask.nn.decoders.cross import CrossDecoder, decoder_of
from polymask.nn.decoders.light import LightDecoder, placed

__all__ = [
    "ConvDecoder",
    "CrossDecoder",
    "LightDecoder",
    "decoder_of",
    "placed",
]
