"""OCSF 1.8 events of a session; what 1.3 and 1.6 require is there too."""
