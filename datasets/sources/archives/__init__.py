"""Archives of replays: zip, tar and 7z, and decompression with limits."""
