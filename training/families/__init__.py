"""Families of branches: what can be fitted, and writes itself into a graph."""

import os

# Threads of torch that wait for each other would turn on the spot: beside other work on the machine that costs several times the
# processor time that the work itself takes. It is read when torch is loaded, which everything below does.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
