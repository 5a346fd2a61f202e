"""A run's folder: what lies where, written whole and read back whatever state it is in."""
