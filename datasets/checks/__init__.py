"""Is a game a training game, and does it agree with itself?"""
