"""Replays -> corpus -> sequences. This room knows nothing of models."""

ROOM = "melee-world-model"
"""Tells this package from Hugging Face's `datasets`, which must not share the environment (see `wm.cli`)."""
