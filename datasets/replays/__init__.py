"""Reads one replay file into one game in memory."""
