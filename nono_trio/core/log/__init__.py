"""The bytes of a session on disk: events, records, hashes and the files beside the log."""
