"""A run as one object: its folder, log, crash history, stop request and checkpoints."""
