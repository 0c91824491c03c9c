"""What a crash left behind: sessions sealed, ledgers mended, leftovers removed."""
