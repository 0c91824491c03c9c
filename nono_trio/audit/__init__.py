"""The audit: live log and writer, checkpoints, ledger, store, and verification."""
