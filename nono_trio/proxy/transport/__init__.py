"""Sockets and readiness: clients, upstream connections, tunnels, relays."""
