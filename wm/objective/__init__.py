"""Losses and their weights. `weights` imports no torch."""
