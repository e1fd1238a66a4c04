"""Cluster files (`cluster.yaml` and those in `cluster/`): read and checked before `ray up` rents anything."""
