"""Encoding: inputs -> chunks -> isolated parser processes -> commits, in one process or on Ray Data."""
