"""The trainer's ports on real things."""
