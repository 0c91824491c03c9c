"""Who may do what: from a request to a decision and its record."""
