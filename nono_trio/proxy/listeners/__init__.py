"""The sockets that the child can reach: proxy, transparent ports, forwarded ports, DNS."""
