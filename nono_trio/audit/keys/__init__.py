"""Keys of the log: where they are, who signs with them, and the check of a signature."""
