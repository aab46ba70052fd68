"""Sound in polymask: tokenizers, encoders, targets, data sets and published systems."""

from importlib.metadata import version

__version__ = version("polymask-audio")
