"""What checkpoints are made of: files with checksums, places that commit a folder as one, host copies, what is kept.

`wm.checkpoint` opens them, `wm.checkpoint_writer` writes them while training goes on.
"""
