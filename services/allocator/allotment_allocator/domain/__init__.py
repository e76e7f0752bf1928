"""Who gets which slots: tenants, leases, their division and their trainers. Pure."""
