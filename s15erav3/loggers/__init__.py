"""Destinations of metrics other than the terminal."""
