"""The stored format: columns and units, Melee's ids, reject reasons, and the train/validation/test split."""
