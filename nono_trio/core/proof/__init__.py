"""Standard proofs about a log: its RFC 6962 tree, signed notes, checkpoints, proof files."""
