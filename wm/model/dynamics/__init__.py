"""Taking several steps: a prediction becomes the next frame, by the rules of the game, and is fed back."""
