"""What `cluster.yaml` adds to Ray's launcher for AWS: a bound on failing set-ups, a fallback between machine types, and
the account's roles and rules (`wm cluster prepare`)."""
