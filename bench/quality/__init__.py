"""Searches beside untuned models and another AutoML library, on held-out rows."""
