"""Reading a session: its records, its summary, what a profile can be learned from it."""
