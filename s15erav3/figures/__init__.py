"""Plotly figures from plain arrays, shared by the HTML pages, Weights & Biases and notebooks."""
