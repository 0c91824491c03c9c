"""Reading a session: its records, its summary, and the profile that `audit learn` makes of it."""
