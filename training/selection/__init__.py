"""What goes into the model: out-of-fold scores, the choice among them, threshold and confidence."""
