"""The search's policies and state machines. No sockets, no SQL, no clocks of its own."""
