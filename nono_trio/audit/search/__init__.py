"""Search over the sessions of a state directory: records, and the hosts in them."""
