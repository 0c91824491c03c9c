"""The credentials of a session: where secrets come from, and how stand-ins reach the command."""
