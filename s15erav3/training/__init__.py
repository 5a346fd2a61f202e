"""Lightning over the model: losses, optimizers, schedules."""
