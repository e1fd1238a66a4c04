"""The corpus on disk: commits, shards, deduplication, verification."""
