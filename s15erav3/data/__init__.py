"""Data pipeline: text, tokens, windows."""
