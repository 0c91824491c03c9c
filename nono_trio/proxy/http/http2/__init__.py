"""HTTP/2: one connection of a client, its streams, and the connections to their server."""
