"""Checks on a cluster before a job: what would end the night is found in minutes. `wm preflight` runs them."""
