"""The models of a device: which are installed, which run, in which state each is, and what is counted of them."""
