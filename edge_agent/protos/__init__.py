"""Generated from protos/edge-agent.proto by `make protos`."""
