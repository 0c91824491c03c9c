"""`why` and `doctor`: what would happen, answered by the code that enforces it."""
