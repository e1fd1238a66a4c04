"""Starting training and evaluation: Ray Train, its workers, `wm eval`."""
