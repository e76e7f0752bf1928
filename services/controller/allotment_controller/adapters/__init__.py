"""One class for each port of the domain."""
