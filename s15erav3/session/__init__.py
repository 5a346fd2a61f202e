"""Run one training from its config to its result, or resume it from a checkpoint."""
