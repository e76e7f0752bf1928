"""The allocator on a real control plane with fake nodes, in full counts."""
