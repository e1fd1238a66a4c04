"""Sources of replays: folders, files and archives, local or remote, scanned lazily into inputs.

This package knows file formats and storage; what a replay contains is for the packages that parse it.
"""
