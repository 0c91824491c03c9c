"""One HTTP connection: its requests in order, each with its exchange."""
