"""The trust of a session: its certificate authority, and how programs come to trust it."""
