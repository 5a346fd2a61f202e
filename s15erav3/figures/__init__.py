"""Pictures: Plotly figures from plain arrays, the same for the HTML pages, Weights & Biases and notebooks."""
