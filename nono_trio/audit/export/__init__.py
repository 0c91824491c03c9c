"""Sessions in the formats of others: to a file at once, or shipped to a receiver as they grow."""
