"""Weights & Biases pages about expert balance, as code: ``python -m s15erav3.dashboard``."""
