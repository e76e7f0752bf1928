"""One module per port: SQL, blobs over gRPC, folders, child processes."""
