"""Credentials as values: stand-ins, their places, their search and their swap."""
