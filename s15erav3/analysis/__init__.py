"""Analysis of a trained model's routing: measurements, summary and tables."""
