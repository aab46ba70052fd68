"""Images to learn from, one file per source.

What they share: :mod:`.decode` reads a picture of any kind, :mod:`.prepare` brings it to one size and
normalises it, :mod:`.base` makes train and test samples of that.
"""
