"""Training with Lightning: losses, optimizers, schedules."""
