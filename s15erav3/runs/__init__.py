"""A run's folder: its layout, written atomically and read back in whatever state it is."""
