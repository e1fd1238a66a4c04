"""One replay file -> one game in memory."""
