"""Sound to learn from, one file per source.

What they share: :mod:`.recordings` reads a file of any rate and number of channels, :mod:`.cut` brings it to
one rate and a length, :mod:`.base` makes train and test samples of that.
"""
