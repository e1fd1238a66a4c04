"""Reading a corpus for training: frames in memory, the order of sequences, evaluation targets."""
