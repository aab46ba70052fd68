"""Audio to learn from: a reader per file, which finds the recordings of a source and divides them.

:mod:`.base` prepares what any of them found: :mod:`.recordings` reads a file of any rate and number of
channels, :mod:`.cut` brings it to one rate and a length.
"""
