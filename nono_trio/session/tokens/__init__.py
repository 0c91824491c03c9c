"""Tokens of OAuth 2.0: those that the supervisor fetches, and those of captured logins."""
