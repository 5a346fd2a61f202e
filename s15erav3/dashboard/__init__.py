"""Weights & Biases pages on expert balance, as code: ``python -m s15erav3.dashboard``."""
