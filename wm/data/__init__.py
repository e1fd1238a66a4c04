"""Training batches on the device: pools of frames, sequences gathered from them, augmentation."""
