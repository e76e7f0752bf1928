"""Model families: how each is fitted, and what its library says of it afterwards."""
