"""What checkpoints are made of: files with checksums, places that commit a folder as one, host copies, what is kept.

`wm.checkpoints.reader` opens them, `wm.checkpoints.writer` writes them while training goes on.
"""
