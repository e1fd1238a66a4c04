"""Checkpoints: their files and checksums, the stores that hold them, writing during training, and retention."""
