"""The allocator's schema, one revision a file."""
