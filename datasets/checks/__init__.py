"""Accepts or rejects a game: is it a training game, and are its values plausible?"""
