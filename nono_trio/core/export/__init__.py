"""Records of a session in the formats of others: one mapping a format, without I/O."""
