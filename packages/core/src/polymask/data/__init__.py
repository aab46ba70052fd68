"""Data sets: what they must offer, how ``--data name:source`` finds one, and what readers of data share.

A data set is declared as a :class:`polymask.Part`. Its ``target`` is a reader, a function that finds the
samples and divides them into :class:`Splits`; its ``prepare`` is the class that turns these into samples of
one modality. A parameter named ``source`` takes what follows the colon in ``--data folder:photos``; all other
parameters of both are options (``--data.size 64``). A data set of its own kind may be one class, with no
``prepare``.
"""

from polymask.data.batches import collate, length_key, padding, sample_of, valid_of
from polymask.data.opening import open_data
from polymask.data.protocols import (
    Dataset,
    Described,
    MediaProvider,
    Named,
    Renderer,
    Samples,
    SplitName,
    Texts,
    TextTokenizer,
    describe,
    facts_of,
    span,
    storable,
)
from polymask.data.reading import BadSample, read_some, reading
from polymask.data.splits import (
    FileDataset,
    LazySamples,
    Skipped,
    Source,
    Split,
    Splits,
    class_names,
    class_numbers,
    divide,
    evenly,
    held_out,
    whole,
)
from polymask.data.wrapped import as_dataset

__all__ = [
    "BadSample",
    "Dataset",
    "Described",
    "FileDataset",
    "LazySamples",
    "MediaProvider",
    "Named",
    "Renderer",
    "Samples",
    "Skipped",
    "Source",
    "Split",
    "SplitName",
    "Splits",
    "TextTokenizer",
    "Texts",
    "as_dataset",
    "class_names",
    "class_numbers",
    "collate",
    "describe",
    "divide",
    "evenly",
    "facts_of",
    "held_out",
    "length_key",
    "open_data",
    "padding",
    "read_some",
    "reading",
    "sample_of",
    "span",
    "storable",
    "valid_of",
    "whole",
]
