"""One game: read from whatever form it has, and checked."""
