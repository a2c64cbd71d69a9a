"""The part of HTTP/2 (RFC 9113) that a gRPC server needs. Why it is our own: docs/adr/0016-endpoint.md."""
