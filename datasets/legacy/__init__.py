"""The older pipelines' parsed games: their containers, their metadata, and the rollback frames that they kept."""
