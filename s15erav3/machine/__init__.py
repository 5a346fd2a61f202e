"""What a machine is made of, and checks of whether this program's GPU path works on it."""
