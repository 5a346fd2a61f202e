"""Sweeps: many runs of one command, side by side, that can be stopped and gone on with."""
