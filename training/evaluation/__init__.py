"""What a finished model says of test pictures, and the files that tell of it."""
