"""Compose and check a config from the command line."""
