"""Games of the older pipelines: their containers, their metadata, and the rollback frames that they kept."""
