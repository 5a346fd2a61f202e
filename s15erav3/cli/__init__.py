"""From the command line to a composed and checked config."""
