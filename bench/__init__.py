"""Benchmarks: each module is a command that prints a ratio against a baseline of the same run."""
