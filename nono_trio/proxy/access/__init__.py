"""Authorization: from a request to a decision and its record."""
