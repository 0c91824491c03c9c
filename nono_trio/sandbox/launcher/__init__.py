"""The child's process until it becomes the command: the standard library and this folder only."""
