"""Corpora between places."""
