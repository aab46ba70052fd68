"""Images to learn from: a reader per file, which finds the images of a source and divides them.

:mod:`.base` prepares what any of them found: :mod:`.decode` reads an image of any format, :mod:`.prepare`
brings it to one size and normalises it.
"""
