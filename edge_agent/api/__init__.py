"""What speaks gRPC to clients: the endpoint, the service, health, reflection and metrics."""
