"""The session's certificate authority, and what makes programs trust it."""
