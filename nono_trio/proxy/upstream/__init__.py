"""The way out: names resolved, addresses dialled, the proxy behind us."""
