"""Sockets: transports and their readiness, clients, relays, tunnels."""
