"""Finds the processes of a cage that hold a socket."""
