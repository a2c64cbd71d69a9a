"""Which pictures without labels to label next."""
