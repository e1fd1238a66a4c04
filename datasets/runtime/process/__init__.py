"""How a command or child process starts, limits itself and ends: signals, standard streams, limits, exit codes."""
