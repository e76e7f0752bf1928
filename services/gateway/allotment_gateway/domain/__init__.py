"""Which service a call is for, and which of its servers takes it."""
