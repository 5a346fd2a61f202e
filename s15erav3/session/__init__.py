"""One training from its config to its result, and from its checkpoint on."""
