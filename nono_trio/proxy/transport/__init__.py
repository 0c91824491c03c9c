"""What moves bytes: transports and their readiness, clients, relays, tunnels."""
