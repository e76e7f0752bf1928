"""The schema of the exporter's database, step by step."""
