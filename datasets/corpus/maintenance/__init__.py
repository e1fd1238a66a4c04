"""Checking and mending a corpus: `wm corpus verify`, `repair` and `compact`."""
