"""Worker processes, one model in each: how they are started, asked and confined, and how a picture gets to them and a mask back."""
