"""Point clouds to learn from: a reader per file, which finds the clouds of a source and divides them.

:mod:`.base` prepares what any of them found: :mod:`.files` reads a file of any format, :mod:`.prepare`
samples, centres, scales and augments.
"""
