"""What a machine can do for this program: versions, and checks that need a GPU."""
