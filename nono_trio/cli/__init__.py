"""The command line: one file a command family, rendering apart from doing."""
