"""Recovery after a crash: sessions are sealed, ledgers repaired, abandoned directories removed."""
