"""Checkpoints: their files and checksums, the stores that hold them, writing while training goes on, and retention."""
