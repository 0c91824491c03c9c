"""One session: the order in which its parts start and end."""
