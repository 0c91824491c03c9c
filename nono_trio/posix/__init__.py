"""What every layer asks of the system: paths, owners, processes, files opened safely."""
