"""What a trained model does with its experts: measured, summed up, laid out as a table."""
