"""HTTP/1.1 messages as bytes: heads, fields, targets, bodies."""
