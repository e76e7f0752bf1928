"""gRPC channels to the services."""
