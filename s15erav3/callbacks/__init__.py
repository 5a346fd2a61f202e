"""What watches training: callbacks read the model and never change it."""
