"""Callbacks that monitor training: they read the model and never change it."""
