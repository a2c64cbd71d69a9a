"""The command line, the demo and the drawn data set: the layer above the rooms."""
