"""The operating system as every layer uses it: paths, owners, processes, files opened safely."""
