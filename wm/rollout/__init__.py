"""Dreams: a model imagines games from true beginnings, with the controllers of a replay; how far it stays with it."""
