"""What the domain's ports are made of: SQL, processes, this machine."""
