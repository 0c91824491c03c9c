"""Credentials as values: stand-ins, where they may stand, how they are found and swapped."""
