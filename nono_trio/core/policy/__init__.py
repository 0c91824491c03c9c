"""What a session may reach and pass on: rules, verdicts and their reasons."""
