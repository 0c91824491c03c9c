"""Names and addresses, and the messages that carry them: DNS, TLS hellos, socket addresses."""
