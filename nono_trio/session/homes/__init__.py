"""The home of a cage: private, kept or seeded."""
