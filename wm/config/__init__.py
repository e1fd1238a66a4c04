"""What a run can be configured with, and how YAML becomes a config. Imports no torch."""
