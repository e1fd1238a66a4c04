"""Replays -> corpus -> sequences. Independent of models."""

PROJECT = "melee-world-model"
"""Tells this package from Hugging Face's `datasets`, which must not share the environment (see `wm.cli`)."""
