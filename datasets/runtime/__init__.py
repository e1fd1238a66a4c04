"""What every package builds on: errors, locks, atomic files, object storage, hardware, and the Ray connection."""
