"""Sweeps: many runs of one command, in parallel, interruptible and resumable."""
