"""Metrics with confidence intervals, for models and baselines on the same frames."""
