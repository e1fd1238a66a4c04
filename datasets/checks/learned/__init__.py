"""Learned checks: what was never seen in good games, though no specification says so. They flag a game, see
`datasets.schema.suspect_rules`, and never refuse it by default."""
