"""Motion of the players: the next frame's velocities and positions, chosen among candidates of the game's physics."""
