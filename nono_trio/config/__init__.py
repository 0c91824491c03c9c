"""Flags, profile and environment settled into one value each."""
