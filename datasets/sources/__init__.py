"""Where replays lie: folders, replays and archives, local or remote, walked lazily as inputs to read one by one.

Everything that turns a source into inputs is in this package; what is in it knows nothing of games.
"""
