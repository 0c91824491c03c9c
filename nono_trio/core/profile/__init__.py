"""Profiles: their schema, their text, their values."""
