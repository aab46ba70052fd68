"""Text to learn from, one file per source.

What they share: :mod:`.base` splits documents into train and test, has them cut into ids by a vocabulary
once and for all (:mod:`.encoded`), and makes samples of them, padded or packed (:mod:`.sequences`).
"""
