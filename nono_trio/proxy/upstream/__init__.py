"""Connections to upstreams: resolver, dialler, upstream proxy."""
