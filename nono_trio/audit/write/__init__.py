"""Writing a session: the recorder, the one writer, the chained log and the seal."""
