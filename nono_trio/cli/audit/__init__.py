"""`nono-trio audit`: a file a subcommand."""
