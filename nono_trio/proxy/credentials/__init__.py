"""Credentials at the proxy: stand-ins are swapped on bound hosts and refused elsewhere."""
