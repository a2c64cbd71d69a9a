"""The command line, the demo and the drawn data set: the layer above the rooms."""

__version__ = "0.1.0"
