"""The filtering proxy: listener, CONNECT, plain HTTP, resolver, dialler, authentication."""
