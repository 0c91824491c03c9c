"""`audit verify`: proofs about a session that need no trust in the machine that wrote it."""
