"""Families of branches: what can be fitted, and writes itself into a graph."""
