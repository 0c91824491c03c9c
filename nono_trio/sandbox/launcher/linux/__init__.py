"""The Linux cage from the inside: namespaces, mounts, network, system call filters."""
