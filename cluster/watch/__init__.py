"""The night watch: starts a command, watches its progress, costs and machines, restarts or ends it."""
