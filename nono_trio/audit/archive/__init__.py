"""Archives: one session in one file, which verifies alone, on any machine."""
