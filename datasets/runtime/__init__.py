"""Foundation of all packages: errors, locks, durable files, object storage, hardware, signals, and starting Ray."""
