"""Text to learn from: a reader per file, which finds the documents of a source.

:mod:`.base` prepares what any of them found: it divides documents into train and test, has them cut into ids
by a vocabulary once and for all (:mod:`.encoded`), and makes samples of them, padded or packed
(:mod:`.sequences`). :mod:`.exchanges` does so for pairs of prompts and responses.
"""
