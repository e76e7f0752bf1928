"""Durable suggest + complete per second, beside Optuna's gRPC proxy on the same stores."""
