"""The rules of a session: hosts, environment variables, homes, and the reasons of denials."""
