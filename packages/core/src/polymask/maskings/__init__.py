"""Maskings for any grid or set of sites."""

from polymask.maskings.random import Random

__all__ = ["Random"]
