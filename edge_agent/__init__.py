"""The device program: finds models, runs each in a process of its own, and answers camera programs over gRPC."""
