"""The stored format: columns and their units, reject reasons, and the train/validation/test split."""
