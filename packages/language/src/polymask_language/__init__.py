"""Text in polymask: tokenizers, encoders, maskings, data sets and published systems."""

from importlib.metadata import version

__version__ = version("polymask-language")
